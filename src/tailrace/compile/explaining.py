"""From the models of a stage to what explains them, where the pipeline says so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tailrace.compile.binding import assemblers
from tailrace.compile.wiring import Wiring
from tailrace.deadline import Clock
from tailrace.errors import CompileError, ModelPackageError, Problem
from tailrace.features.view_spec import ViewCodec
from tailrace.inference.explaining.explainer import Trees, load_explainer
from tailrace.inference.explaining.step import ExplainedModel
from tailrace.inference.packaged import PackagedModel
from tailrace.inference.stage import Stage, asked_stages
from tailrace.pipeline import Pipeline

ROUNDS: Final = 9
"""Explanations of a row that are timed."""


def explained_models(
    pipeline: Pipeline, wiring: Wiring, codecs: Sequence[ViewCodec], stage: Stage, clock: Clock
) -> dict[str, ExplainedModel | str]:
    """Return what explains each model that a stage asks, by its name, or why nothing does.

    Raises CompileError for a model whose explanations are another model's.
    """
    models: dict[str, ExplainedModel | str] = {}
    problems = []
    for leaf in asked_stages(stage):
        model = leaf.explained_by
        try:
            trees = model if isinstance(model, str) else load_explainer(model, model.directory)
        except ModelPackageError as error:
            problems.append(Problem(error.what, error.where, error.next))
            continue
        if isinstance(trees, str) or isinstance(model, str):
            models[leaf.name] = str(trees)
        else:
            filled, names = assemblers(wiring, leaf.signature, codecs), leaf.signature.feature_names
            models[leaf.name] = ExplainedModel(filled, trees, names, _row_ns(trees, model, clock), clock)
    if problems:
        raise CompileError(pipeline.name, problems)
    return models


def _row_ns(trees: Trees, model: PackagedModel, clock: Clock) -> int:
    """Return what explaining a row takes, the median."""
    times_ns = []
    for seed in range(ROUNDS):
        feeds = model.sample_feeds(1, seed=seed)
        began_ns = clock.now_ns()
        trees.contributions(feeds)
        times_ns.append(clock.now_ns() - began_ns)
    return sorted(times_ns)[ROUNDS // 2]
