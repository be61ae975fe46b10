"""The constant that answers when no model can: held against what the model gives, and made into its scores."""

from __future__ import annotations

from collections.abc import Mapping

from tailrace.compile.wire_compositions import told
from tailrace.compile.wiring import Wiring, suggest
from tailrace.errors import Problem
from tailrace.inference.composition.declarations import Composition, compositions_of
from tailrace.inference.declaration import Constant, StageDeclaration
from tailrace.inference.signature import Signature
from tailrace.pipeline import Pipeline
from tailrace.postprocess.bands import Labels


def check_constants(pipeline: Pipeline, wiring: Wiring, signatures: Mapping[StageDeclaration, Signature]) -> None:
    """Hold each constant against what stands in its place: one score a number; many classes a label, or one each."""
    any_model = next(iter(signatures.values()), None)  # what the members of a composition give is alike
    for declared in dict.fromkeys((*signatures, *compositions_of(pipeline.model))):
        constant, signature = declared.constant, signatures.get(declared, any_model)
        if constant is None or signature is None:
            continue
        many = signature.scores_width > 1
        found = _many_classes_problem(constant, pipeline, signature) if many else _one_score_problem(constant)
        if found is not None:
            where = told(declared) if isinstance(declared, Composition) else f"model {declared.name!r}"
            wiring.problems.append(Problem(found[0], f"{where}, its fallback", found[1]))


def constant_scores(pipeline: Pipeline, declared: StageDeclaration, signature: Signature) -> Constant | None:
    """Return a stage's constant as scores: of a label, 1 for its class and 0 for the others. It has no problem."""
    constant = declared.constant
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
