"""The constant that answers when no model can: held against what the model gives, and made into its scores."""

from __future__ import annotations

from collections.abc import Mapping

from tailrace.compile.wiring import Wiring, suggest
from tailrace.errors import Problem
from tailrace.inference.composition.declarations import Ensemble, compositions_of
from tailrace.inference.declaration import Constant, Model, StageDeclaration
from tailrace.inference.python_model import PythonModel
from tailrace.inference.remote.declaration import RemoteModel
from tailrace.inference.signature import Signature
from tailrace.pipeline import Pipeline
from tailrace.postprocess.bands import Labels


def check_constants(pipeline: Pipeline, wiring: Wiring, signatures: Mapping[StageDeclaration, Signature]) -> None:
    """Hold each constant against its model: one number for one score; for many classes a label, or a number each."""
    for model, signature in signatures.items():
        if not isinstance(model, Model | RemoteModel | PythonModel) or model.constant is None:
            continue
        many = signature.scores_width > 1
        found = (
            _many_classes_problem(model.constant, pipeline, signature) if many else _one_score_problem(model.constant)
        )
        if found is not None:
            wiring.problems.append(Problem(found[0], f"model {model.name!r}, its fallback", found[1]))


def check_ensembles(pipeline: Pipeline, wiring: Wiring, signatures: Mapping[StageDeclaration, Signature]) -> None:
    """Hold the constant of each ensemble against what its members give, which is alike."""
    signature = next(iter(signatures.values()), None)
    for ensemble in compositions_of(pipeline.model):
        if signature is None or not isinstance(ensemble, Ensemble) or ensemble.constant is None:
            continue
        if signature.scores_width > 1:
            found = _many_classes_problem(ensemble.constant, pipeline, signature)
        else:
            found = _one_score_problem(ensemble.constant)
        if found is not None:
            wiring.problems.append(Problem(found[0], f"Ensemble {ensemble.name!r}, its fallback", found[1]))


def constant_scores(
    pipeline: Pipeline, model: Model | Ensemble | RemoteModel | PythonModel, signature: Signature
) -> Constant | None:
    """Return a model's constant as scores: of a label, 1 for its class and 0 for the others. It has no problem."""
    constant = model.constant
    if constant is None or not isinstance(constant.value, str):
        return constant
    return Constant([float(label == constant.value) for label in _labels(pipeline, signature)])


def _labels(pipeline: Pipeline, signature: Signature) -> tuple[str, ...]:
    """Return what the classes are called: by the decision, else by the model."""
    names = pipeline.decision.names if isinstance(pipeline.decision, Labels) else ()
    return names or tuple(str(label) for label in signature.classes)


def _one_score_problem(constant: Constant) -> tuple[str, str] | None:
    """Return what is wrong with the fallback of a model that gives one score, and what to do."""
    value = list(constant.value) if isinstance(constant.value, tuple) else constant.value
    if isinstance(value, int | float):
        return None
    return f"the constant is {value!r} for a model of one score", "write that score, such as tr.Constant(0.5)"


def _many_classes_problem(constant: Constant, pipeline: Pipeline, signature: Signature) -> tuple[str, str] | None:
    """Return what is wrong with the fallback of a model that gives a probability a class, and what to do."""
    value, width = constant.value, signature.scores_width
    labels, classes = _labels(pipeline, signature), [str(label) for label in signature.classes]
    if isinstance(value, tuple):
        if len(value) == width:
            return None
        return (
            f"the constant has {len(value)} numbers for a model of {width} classes",
            f"write one a class, in this order: {', '.join(labels)}",
        )
    if not isinstance(value, str):
        return (
            f"the constant is one score, {value!r}, for a model of {width} classes",
            f'write a class, such as tr.Constant("{labels[0]}"), or a list of one probability a class',
        )
    if value in labels or len(labels) != width or not isinstance(pipeline.decision, Labels | None):
        return None  # of a decision that does not fit the model enough is said
    if value in classes:
        return (
            f"the constant {value!r} is the model's name of a class that tr.labels renames",
            f"write {labels[classes.index(value)]!r}",
        )
    return f"the constant {value!r} is no class", suggest(value, labels)
