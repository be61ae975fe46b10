"""From a pipeline's models to the layer that scores, and explains where the pipeline says so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tailrace.compile.binding import assemblers
from tailrace.compile.stages import LoadedModels
from tailrace.compile.wiring import Wiring
from tailrace.deadline import INFERENCE, Clock, LayerLimit
from tailrace.errors import CompileError, ModelPackageError, Problem
from tailrace.features.view_spec import ViewCodec
from tailrace.inference.declaration import Model, asked_of
from tailrace.inference.explaining.explainer import Trees, load_explainer
from tailrace.inference.explaining.step import ExplainedModel, ExplainingStep
from tailrace.inference.packaged import PackagedModel
from tailrace.inference.stage import Stage
from tailrace.inference.step import InferenceStep
from tailrace.pipeline import Pipeline
from tailrace.response.best_rows import BestRows

ROUNDS: Final = 9
"""Explanations of a row that are timed."""


def inference_step(
    pipeline: Pipeline, wiring: Wiring, codecs: Sequence[ViewCodec], loaded: LoadedModels, stage: Stage, clock: Clock
) -> InferenceStep:
    """Return layer 3. Raises CompileError for a model whose explanations are another model's."""
    limit = LayerLimit(pipeline.budget, INFERENCE, clock)
    if wiring.explain is None:
        return InferenceStep(stage, limit)
    models: dict[str, ExplainedModel | str] = {}
    problems = []
    for declared in asked_of(pipeline.model):
        if not isinstance(declared, Model):
            continue
        model = loaded.found[declared]
        try:
            trees = load_explainer(model, declared.directory(pipeline.base_dir))
        except ModelPackageError as error:
            problems.append(Problem(error.what, error.where, error.next))
            continue
        if isinstance(trees, str):
            models[declared.name] = trees
        else:
            filled, names = assemblers(wiring, model.signature, codecs), model.signature.feature_names
            models[declared.name] = ExplainedModel(filled, trees, names, _row_ns(trees, model, clock))
    if problems:
        raise CompileError(pipeline.name, problems)
    has_one_score = all(signature.scores_width == 1 for signature in loaded.signatures.values())
    # What ranks rows by the likeliest class is known only behind layer 4.
    answered = BestRows(wiring.top).rows if wiring.top is not None and has_one_score else None
    return ExplainingStep(stage, limit, clock, models=models, top=wiring.explain, answered=answered)


def _row_ns(trees: Trees, model: PackagedModel, clock: Clock) -> int:
    """Return what explaining a row takes, the median."""
    times_ns = []
    for seed in range(ROUNDS):
        feeds = model.sample_feeds(1, seed=seed)
        began_ns = clock.now_ns()
        trees.contributions(feeds)
        times_ns.append(clock.now_ns() - began_ns)
    return sorted(times_ns)[ROUNDS // 2]
