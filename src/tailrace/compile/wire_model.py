"""The features held against the model's inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

import numpy as np

from tailrace.compile.wiring import Origin, Wire, Wiring, suggest
from tailrace.errors import Problem
from tailrace.inference.declaration import StageDeclaration, asked_of
from tailrace.inference.signature import Signature, TensorSpec
from tailrace.pipeline import Pipeline

MISSING_TOLD_MAX: Final = 3
"""Inputs without a feature that are named one by one; a forgotten view misses many, which are named together."""


def check_signatures(pipeline: Pipeline, wiring: Wiring, signatures: Mapping[StageDeclaration, Signature]) -> None:
    """Hold the features against the models' inputs: a name too few or too many, the order, the types.

    The order is that of the inputs where all models have the same ones; where they do not, there is none.
    """
    if not signatures:
        return
    for model, signature in signatures.items():
        _check_missing(wiring, model.name, signature)
    orders = list(dict.fromkeys(signature.feature_names for signature in signatures.values()))
    if len(orders) == 1:
        _check_order(wiring, orders[0], tuple(name for name in wiring.features if name in orders[0]))
    for model, signature in signatures.items():
        for tensor in signature.inputs:
            _check_dtypes(wiring, tensor, model.name)
    _check_outputs(pipeline, wiring, signatures)


def check_taken(pipeline: Pipeline, wiring: Wiring, signatures: Mapping[StageDeclaration, Signature]) -> None:
    """Find the features that no model takes, nor a stage that goes by them, nor a rule."""
    models = asked_of(pipeline.model)
    if not signatures.keys() >= set(models):  # a model that was not loaded may take it
        return
    wanted = dict.fromkeys(name for signature in signatures.values() for name in signature.feature_names)
    taken = [*wiring.chosen_by.values(), *(wire for wires in wiring.rules for wire in wires)]
    for name, source in wiring.features.items():
        if name not in wanted and not any(_takes(wire, source) for wire in taken):
            what = "the model takes no such input" if len(models) == 1 else "no model takes such an input"
            wiring.problems.append(Problem(what, f"features.{name}", f"remove it: {suggest(name, wanted)}"))


def _takes(wire: Wire, source: Wire) -> bool:
    """Say whether who reads by a wire reads a feature: its column, or the whole view that it is of."""
    if wire.origin is not source.origin or wire.view != source.view:
        return False
    return wire.name == source.name or (wire.origin is Origin.VIEW and not wire.name)


def _check_missing(wiring: Wiring, model: str, signature: Signature) -> None:
    """Find the inputs of a model that no feature gives."""
    where, given = f"model {model!r}", tuple(wiring.features)
    missing = [(index, name) for index, name in enumerate(signature.feature_names) if name not in wiring.features]
    for index, name in missing[:MISSING_TOLD_MAX]:
        what = f"the model wants {name} as input {index}, and no feature gives it"
        wiring.problems.append(Problem(what, where, suggest(name, given)))
    if more := missing[MISSING_TOLD_MAX:]:
        names = ", ".join(name for _, name in more)
        what = f"the model wants {len(more)} more inputs that no feature gives: {names}"
        wiring.problems.append(Problem(what, where, "add their views or functions to the features, in this order"))


def _check_order(wiring: Wiring, wanted: tuple[str, ...], given: tuple[str, ...]) -> None:
    """Find the first feature that stands where the model has another input."""
    if sorted(wanted) != sorted(given) or wanted == given:
        return
    at = next(index for index, pair in enumerate(zip(wanted, given, strict=True)) if pair[0] != pair[1])
    wiring.problems.append(
        Problem(
            f"input {at} of the model is {wanted[at]}, but the features have {given[at]} there",
            "features",
            f"list the features in the model's order: {', '.join(wanted)}",
        )
    )


def _check_outputs(pipeline: Pipeline, wiring: Wiring, signatures: Mapping[StageDeclaration, Signature]) -> None:
    """Find the models whose scores cannot stand in one column: of other classes, or of one score beside many."""
    (first, one), *others = signatures.items()
    for model, other in others:
        if (one.classes, one.column is None, one.vector) != (other.classes, other.column is None, other.vector):
            what = f"{_tell_output(other)}, and {first.name!r} {_tell_output(one)}: their scores are not alike"
            wiring.problems.append(
                Problem(
                    f"it {what}", f"model {model.name!r} of {pipeline.model.name!r}",
                    "train them for the same outcome, with the same classes in the same order",
                )
            )  # fmt: skip


def _tell_output(signature: Signature) -> str:
    """Return what a model gives, in words."""
    if signature.vector:
        return f"gives a vector of {signature.vector}"
    return f"gives the classes {', '.join(map(str, signature.classes))}" if signature.classes else "gives one number"


def _check_dtypes(wiring: Wiring, tensor: TensorSpec, model: str) -> None:
    """A text never fills a number, nor a number a text; a fraction never fills an integer."""
    for position, name in enumerate(tensor.features):
        source = wiring.features.get(name)
        if source is None or source.dtype is None:
            continue
        wiring.problems.extend(_width_problem(name, source, tensor.feature_widths[position], model))
        problem = dtype_problem(name, source.dtype, f"{tensor.name!r}[{position}] of the model {model!r}", tensor.dtype)
        wiring.problems.extend(problem)


def _width_problem(name: str, source: Wire, wanted: int, model: str) -> list[Problem]:
    """Return what is wrong with the length of a vector: one problem, or none."""
    if source.width == wanted:
        return []
    given = "one number" if source.width == 1 else f"a vector of {source.width}"
    takes = "one number" if wanted == 1 else f"a vector of {wanted}"
    return [
        Problem(
            f"the model {model!r} takes {takes} here, this is {given}",
            f"features.{name}",
            f"declare it as Annotated[list[float], tr.Field(min_length={wanted}, max_length={wanted})]"
            if wanted > 1
            else "declare it as a number, or package a model that takes the vector",
        )
    ]


def dtype_problem(name: str, dtype: np.dtype[Any], place: str, wanted: str) -> list[Problem]:
    """Return what is wrong with filling an input of type `wanted` from a column of `dtype`: one problem, or none."""
    is_text = dtype.kind in "OUST"
    casting: Literal["safe", "same_kind"] = "safe" if wanted.startswith("int") else "same_kind"  # ints would wrap
    if is_text == (wanted == "string") and (is_text or np.can_cast(dtype, wanted, casting)):
        return []
    return [
        Problem(
            f"the input {place} is {wanted}, this is {'text' if is_text else dtype}",
            f"features.{name}",
            "declare it with the model's type, or convert it in an @on_demand feature",
        )
    ]
