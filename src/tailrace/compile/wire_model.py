"""The features held against the model's inputs."""

from __future__ import annotations

from typing import Any, Final, Literal

import numpy as np

from tailrace.compile.wiring import Wiring, suggest
from tailrace.errors import Problem
from tailrace.inference.signature import Signature, TensorSpec
from tailrace.pipeline import Pipeline

MISSING_TOLD_MAX: Final = 3
"""Inputs without a feature that are named one by one; a forgotten view misses many, which are named together."""


def check_signature(pipeline: Pipeline, wiring: Wiring, signature: Signature) -> None:
    """Hold the features against the model's inputs: a name too few or too many, the order, the types."""
    wanted, given = signature.feature_names, tuple(wiring.features)
    where = f"model {pipeline.model.name!r}"
    missing = [(index, name) for index, name in enumerate(wanted) if name not in wiring.features]
    for index, name in missing[:MISSING_TOLD_MAX]:
        what = f"the model wants {name} as input {index}, and no feature gives it"
        wiring.problems.append(Problem(what, where, suggest(name, given)))
    if more := missing[MISSING_TOLD_MAX:]:
        names = ", ".join(name for _, name in more)
        what = f"the model wants {len(more)} more inputs that no feature gives: {names}"
        wiring.problems.append(Problem(what, where, "add their views or functions to the features, in this order"))
    for name in given:
        if name not in wanted:
            wiring.problems.append(
                Problem("the model takes no such input", f"features.{name}", f"remove it: {suggest(name, wanted)}")
            )
    if sorted(wanted) == sorted(given) and wanted != given:
        at = next(index for index, pair in enumerate(zip(wanted, given, strict=True)) if pair[0] != pair[1])
        wiring.problems.append(
            Problem(
                f"input {at} of the model is {wanted[at]}, but the features have {given[at]} there",
                "features",
                f"list the features in the model's order: {', '.join(wanted)}",
            )
        )
    for tensor in signature.inputs:
        _check_dtypes(wiring, tensor, pipeline.model.name)


def _check_dtypes(wiring: Wiring, tensor: TensorSpec, model: str) -> None:
    """A text never fills a number, nor a number a text; a fraction never fills an integer."""
    for position, name in enumerate(tensor.features):
        source = wiring.features.get(name)
        if source is None or source.dtype is None:
            continue
        problem = dtype_problem(name, source.dtype, f"{tensor.name!r}[{position}] of the model {model!r}", tensor.dtype)
        wiring.problems.extend(problem)


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
