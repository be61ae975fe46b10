"""Wires of a list that is cut to its best: how many rows of a request are answered with."""

from __future__ import annotations

from types import MemberDescriptorType

from tailrace.compile.wiring import Wiring
from tailrace.errors import Problem
from tailrace.inference.signature import Signature
from tailrace.pipeline import Pipeline
from tailrace.postprocess.bands import Labels


def wire_top(pipeline: Pipeline, wiring: Wiring, signature: Signature | None) -> None:
    """Find how many rows a request is answered with, and that there is one score to tell them by."""
    top = pipeline.top
    if top is None:
        return
    if wiring.expanded is None:
        what, next_step = "a request is one row", "leave top out, or make an entity's key a list of ids"
        wiring.problems.append(Problem(what, "top", next_step))
    if signature is not None and signature.scores_width > 1 and not isinstance(pipeline.decision, Labels):
        what = f"rows are told apart by one score, and the model gives {signature.scores_width}"
        wiring.problems.append(Problem(what, "top", "write decision=tr.labels() for the likeliest class"))
    if isinstance(top, MemberDescriptorType):
        wiring.top = _field(pipeline, wiring, top)
    elif top < 1:
        wiring.problems.append(Problem(f"{top} rows are no answer", "top", "write how many, such as top=20"))
    else:
        wiring.top = top


def _field(pipeline: Pipeline, wiring: Wiring, field: MemberDescriptorType) -> str | None:
    """Return the field of the request that says how many rows are asked for."""
    name = field.__name__
    spec = wiring.fields.get(name) if issubclass(pipeline.request, field.__objclass__) else None
    if spec is not None and spec.dtype.kind == "i" and not spec.many:
        return name
    what = f"{field.__objclass__.__name__}.{name} is no field of this request that holds a whole number"
    wiring.problems.append(Problem(what, "top", f"declare `{name}: int` in {pipeline.request.__name__}"))
    return None
