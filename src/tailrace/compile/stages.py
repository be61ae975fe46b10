"""From the declared stage to the one that scores: the models are loaded, held against each other, and bound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tailrace.compile.binding import assemblers
from tailrace.compile.compositions import bind_composition
from tailrace.compile.python_models import find_python_models, make_python_stage
from tailrace.compile.remote_models import FoundRemote, find_remote_models, make_remote_stage
from tailrace.compile.wire_fallback import constant_scores
from tailrace.compile.wiring import Wiring
from tailrace.deadline import Clock
from tailrace.errors import ModelPackageError, Problem
from tailrace.features.view_spec import ViewCodec
from tailrace.inference.backends.choice import BackendChoice
from tailrace.inference.composition.declarations import Composition
from tailrace.inference.curve import measure_curve
from tailrace.inference.declaration import Constant, Model, StageDeclaration, models_of, stages_of
from tailrace.inference.loading import load_model
from tailrace.inference.model_stage import ModelStage
from tailrace.inference.packaged import PackagedModel
from tailrace.inference.python_model import GuardedModel, PythonModel
from tailrace.inference.remote.declaration import RemoteModel
from tailrace.inference.remote.stage import RemoteStage
from tailrace.inference.scorer import Scorer
from tailrace.inference.signature import Signature
from tailrace.inference.stage import Stage
from tailrace.pipeline import Pipeline


@dataclass(frozen=True, slots=True)
class LoadedModels:
    """The models of a pipeline, by their declarations.

    signatures: of those with inputs of their own. problems: of those that could not be loaded, or do not fit.
    """

    found: Mapping[Model, PackagedModel]
    remote: Mapping[RemoteModel, FoundRemote]
    python: Mapping[PythonModel, GuardedModel]
    signatures: Mapping[StageDeclaration, Signature]
    problems: Sequence[Problem] = field(default_factory=list)


def load_models(pipeline: Pipeline, backends: Mapping[Path, BackendChoice]) -> LoadedModels:
    """Load the models of a pipeline, and those that they fall back to.

    backends: chosen beforehand, by the model's directory; for a model that is not among them it is chosen now.
    """
    found: dict[Model, PackagedModel] = {}
    problems: list[Problem] = []
    for model in dict.fromkeys(models_of(pipeline.model)):
        _load(model, pipeline.base_dir, backends, found, problems)
    for model in dict.fromkeys(models_of(pipeline.model)):
        problems += _second_problems(model, found)
    remote = find_remote_models(pipeline, problems)
    known: dict[StageDeclaration, Signature] = {each: model.described.signature for each, model in remote.items()}
    python = find_python_models(pipeline, problems)
    known |= {each: model.signature for each, model in python.items()}
    known |= {each: model.signature for each, model in found.items()}
    signatures = {each: known[each] for each in stages_of(pipeline.model) if each in known}
    return LoadedModels(found, remote, python, signatures, problems)


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
        found[model] = load_model(directory, choice=backends.get(directory))
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
        match declared:
            case Model():
                return self._model_stage(declared)
            case Composition():
                members, signature = map(self.bind, declared.members), next(iter(self._loaded.signatures.values()))
                return bind_composition(self._pipeline, self._wiring, declared, [*members], signature, self._clock)
            case RemoteModel():
                return self._remote_stage(declared)
            case PythonModel():
                model = self._loaded.python[declared]
                filled = assemblers(self._wiring, model.signature, self._codecs)
                constant = constant_scores(self._pipeline, declared, model.signature)
                return make_python_stage(self._pipeline, declared, model, filled, constant, self._clock)
        raise TypeError(f"nothing makes a stage of {type(declared).__name__}")

    def _model_stage(self, declared: Model) -> ModelStage:
        """Return the stage of a model and its second one, if there is one."""
        model, clock = self._loaded.found[declared], self._clock
        second = None if declared.second is None else self._loaded.found[declared.second]
        classes, constant = model.signature.scores_width, constant_scores(self._pipeline, declared, model.signature)
        fallback = constant if second is None else Scorer(second, constant, classes=classes, clock=clock)
        return ModelStage(
            declared.name,
            model.signature,
            assemblers(self._wiring, model.signature, self._codecs),
            Scorer(model, fallback, classes=classes, clock=clock),
            measure_curve(model, clock=clock),
            budget=self._pipeline.budget,
            clock=clock,
            fallback_curve=None if second is None else measure_curve(second, clock=clock),
            backend=model.backend,
            backend_reason=model.backend_reason,
            instances=declared.instances,
            max_wait_ns=declared.max_wait_ns,
        )

    def _remote_stage(self, declared: RemoteModel) -> RemoteStage:
        """Return the stage of a remote model, and of the model that it falls back to, if there is one."""
        found = self._loaded.remote[declared]
        signature = found.described.signature
        fallback: Constant | Stage | None = (
            constant_scores(self._pipeline, declared, signature)
            if declared.second is None
            else self.bind(declared.second)
        )
        assert isinstance(fallback, Constant | ModelStage | None)
        filled = assemblers(self._wiring, signature, self._codecs)
        return make_remote_stage(self._pipeline, declared, found, filled, fallback, self._clock)
