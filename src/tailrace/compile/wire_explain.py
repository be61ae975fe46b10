"""Wires of explanations: how many contributions a row is told by, and where in the response."""

from __future__ import annotations

from types import MemberDescriptorType

import msgspec

from tailrace.compile.wiring import Wiring
from tailrace.errors import Problem
from tailrace.pipeline import Pipeline


def wire_explain(pipeline: Pipeline, wiring: Wiring) -> None:
    """Find how many contributions a row is explained by, and that the response has a place for them."""
    explain = pipeline.explain
    if explain is None:
        return
    if isinstance(explain, MemberDescriptorType):
        name = explain.__name__
        spec = wiring.fields.get(name) if issubclass(pipeline.request, explain.__objclass__) else None
        if spec is None or spec.dtype.kind != "i" or spec.many:
            what = f"{explain.__objclass__.__name__}.{name} is no field of this request that holds a whole number"
            wiring.problems.append(
                Problem(what, "explain", f"declare `{name}: int = 0` in {pipeline.request.__name__}")
            )
            return
        wiring.explain = name
    elif explain < 1:
        wiring.problems.append(Problem(f"{explain} contributions explain nothing", "explain", "write explain=5"))
    else:
        wiring.explain = explain
    if "explanation" not in {field.name for field in msgspec.structs.fields(pipeline.response)}:
        what, next_step = "the response has no place for it", "declare `explanation: dict[str, float] | None` in it"
        wiring.problems.append(Problem(what, "explain", next_step))
