"""From the declared stage to layer 3: the models are loaded, held against each other, and bound."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from tailrace.compile.binding import assemblers
from tailrace.compile.compositions import bind_composition
from tailrace.compile.explaining import explained_models
from tailrace.compile.leaf import Found, Search, StageParts
from tailrace.compile.python_models import find_python_models, make_python_stage
from tailrace.compile.remote_models import find_remote_models, make_remote_stage
from tailrace.compile.wire_fallback import constant_scores
from tailrace.compile.wiring import Wiring
from tailrace.deadline import INFERENCE, Clock, LayerLimit
from tailrace.errors import ModelPackageError, Problem
from tailrace.features.view_spec import ViewCodec
from tailrace.inference.backends.choice import BackendChoice
from tailrace.inference.composition.declarations import Composition
from tailrace.inference.curve import measure_curve
from tailrace.inference.declaration import Model, StageDeclaration, models_of, stages_of
from tailrace.inference.explaining.step import ExplainingStep
from tailrace.inference.loading import load_model
from tailrace.inference.model_stage import ModelStage
from tailrace.inference.packaged import PackagedModel
from tailrace.inference.python_model import PythonModel
from tailrace.inference.remote.declaration import RemoteModel
from tailrace.inference.scorer import Scorer
from tailrace.inference.signature import Signature
from tailrace.inference.stage import LeafStage, Stage
from tailrace.inference.step import InferenceStep
from tailrace.pipeline import Pipeline
from tailrace.response.best_rows import BestRows


@dataclass(frozen=True, slots=True)
class LoadedModels:
    """The models of a pipeline, by their declarations.

    signatures: of those with inputs of their own. problems: of those that could not be loaded, or do not fit.
    """

    found: Mapping[StageDeclaration, Found]
    signatures: Mapping[StageDeclaration, Signature]
    problems: Sequence[Problem]


def load_models(pipeline: Pipeline, backends: Mapping[Path, BackendChoice]) -> LoadedModels:
    """Load the models of a pipeline, and those that they fall back to.

    backends: chosen beforehand, by the model's directory; for a model that is not among them it is chosen now.
    """
    search = Search(backends, [])
    found: dict[StageDeclaration, Found] = {}
    for kind in _KINDS.values():
        found |= kind.find(pipeline, search)
    signatures = {each: found[each].signature for each in stages_of(pipeline.model) if each in found}
    return LoadedModels(found, signatures, search.problems)


def find_packaged_models(pipeline: Pipeline, search: Search) -> dict[Model, PackagedModel]:
    """Load each packaged model; add to the problems what is wrong with them."""
    found: dict[Model, PackagedModel] = {}
    models = dict.fromkeys(models_of(pipeline.model))
    for model in models:
        _load(model, pipeline.base_dir, search.backends, found, search.problems)
    for model in models:
        search.problems.extend(_second_problems(model, found))
    return found


def _load(
    model: Model,
    base_dir: Path,
    backends: Mapping[Path, BackendChoice],
    found: dict[Model, PackagedModel],
    problems: list[Problem],
) -> None:
    """Load one model."""
    directory = model.directory(base_dir)
    try:
        found[model] = load_model(directory, choice=backends.get(directory), trusted=model.trust)
    except ModelPackageError as error:
        problems.append(Problem(error.what, error.where or f"model {model.name!r}", error.next))


def _second_problems(first: Model, found: Mapping[Model, PackagedModel]) -> list[Problem]:
    """Return what is wrong with the model that a model falls back to, if it does."""
    second = first.second
    if second is None or first not in found or second not in found:
        return []
    one, other = ((each.inputs, each.classes, each.column is None, each.vector)
                  for each in (found[first].signature, found[second].signature))  # fmt: skip
    if one == other:
        return []
    return [
        Problem(
            f"the fallback {second.name!r} takes other inputs or classes than {first.name!r}",
            f"model {first.name!r}",
            "package both with the same feature columns in the same order",
        )
    ]


class StageBinding:
    """Makes the stages of a pipeline from their declarations. A model that stands in two places is one stage."""

    def __init__(
        self, pipeline: Pipeline, wiring: Wiring, codecs: Sequence[ViewCodec], loaded: LoadedModels, clock: Clock
    ) -> None:
        self._pipeline = pipeline
        self._wiring = wiring
        self._codecs = codecs
        self._loaded = loaded
        self._clock = clock
        self._bound: dict[StageDeclaration, Stage] = {}

    def bind(self, declared: StageDeclaration) -> Stage:
        """Return the stage of a declaration; what its models cost is measured."""
        if declared not in self._bound:
            self._bound[declared] = self._make(declared)
        return self._bound[declared]

    def _make(self, declared: StageDeclaration) -> Stage:
        if isinstance(declared, Composition):
            members, signature = map(self.bind, declared.members), next(iter(self._loaded.signatures.values()))
            return bind_composition(self._pipeline, self._wiring, declared, [*members], signature, self._clock)
        model = self._loaded.found[declared]
        filled = assemblers(self._wiring, model.signature, self._codecs)
        constant, budget = constant_scores(self._pipeline, declared, model.signature), self._pipeline.budget
        parts = StageParts(declared, model, filled, constant, budget, self._clock, self._loaded.found, self.bind)
        return _KINDS[type(declared)].make(parts)


def inference_step(
    pipeline: Pipeline, wiring: Wiring, codecs: Sequence[ViewCodec], loaded: LoadedModels, clock: Clock
) -> InferenceStep:
    """Return layer 3. Raises CompileError for a model whose explanations are another model's."""
    stage = StageBinding(pipeline, wiring, codecs, loaded, clock).bind(pipeline.model)
    limit = LayerLimit(pipeline.budget, INFERENCE, clock)
    if wiring.explain is None:
        return InferenceStep(stage, limit)
    has_one_score = all(signature.scores_width == 1 for signature in loaded.signatures.values())
    # What ranks rows by the likeliest class is known only behind layer 4.
    answered = BestRows(wiring.top).rows if wiring.top is not None and has_one_score else None
    models = explained_models(pipeline, wiring, codecs, stage, clock)
    return ExplainingStep(stage, limit, clock, models=models, top=wiring.explain, answered=answered)


def make_packaged_stage(parts: StageParts[Model, PackagedModel]) -> ModelStage:
    """Return the stage of a packaged model and its second one, if there is one."""
    declared, model, clock = parts.declared, parts.model, parts.clock
    second = None if declared.second is None else parts.found[declared.second]
    assert isinstance(second, PackagedModel | None)
    classes = model.signature.scores_width
    fallback = parts.constant if second is None else Scorer(second, parts.constant, classes=classes, clock=clock)
    return ModelStage(
        declared.name,
        model.signature,
        parts.assemblers,
        Scorer(model, fallback, classes=classes, clock=clock),
        measure_curve(model, clock=clock),
        budget=parts.budget,
        clock=clock,
        fallback_curve=None if second is None else measure_curve(second, clock=clock),
        backend=model.backend,
        backend_reason=model.backend_reason,
        explained_by=model,
        instances=declared.instances,
        max_wait_ns=declared.max_wait_ns,
    )


class _Kind(NamedTuple):
    """A kind of model: how those of a pipeline are found, and how one is made a stage."""

    find: Callable[[Pipeline, Search], Mapping[Any, Found]]
    make: Callable[[StageParts[Any, Any]], LeafStage]


_KINDS: Final[Mapping[type[StageDeclaration], _Kind]] = {
    Model: _Kind(find_packaged_models, make_packaged_stage),
    RemoteModel: _Kind(find_remote_models, make_remote_stage),
    PythonModel: _Kind(find_python_models, make_python_stage),
}
"""What a pipeline may ask; what is made of them is in compositions.py."""
