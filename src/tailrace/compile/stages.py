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
from tailrace.compile.packaged_models import find_packaged_models, make_packaged_stage
from tailrace.compile.python_models import find_python_models, make_python_stage
from tailrace.compile.remote_models import find_remote_models, make_remote_stage
from tailrace.compile.wire_fallback import constant_scores
from tailrace.compile.wiring import Wiring
from tailrace.deadline import INFERENCE, Clock, LayerLimit
from tailrace.errors import Problem
from tailrace.features.view_spec import ViewCodec
from tailrace.inference.backends.choice import BackendChoice
from tailrace.inference.composition.declarations import Composition
from tailrace.inference.declaration import Model, StageDeclaration, models_with_inputs
from tailrace.inference.explaining.step import ExplainingStep
from tailrace.inference.python_model import PythonModel
from tailrace.inference.remote.declaration import RemoteModel
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
    signatures = {each: found[each].signature for each in models_with_inputs(pipeline.model) if each in found}
    return LoadedModels(found, signatures, search.problems)


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
