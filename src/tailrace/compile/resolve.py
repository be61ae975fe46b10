"""Resolves every name of a pipeline, and reports every mistake it finds. Nothing of the user's runs here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import msgspec

from tailrace.compile.wire_coalesce import wire_coalesce
from tailrace.compile.wire_compositions import wire_compositions
from tailrace.compile.wire_events import wire_events
from tailrace.compile.wire_explain import wire_explain
from tailrace.compile.wire_fallback import check_constants
from tailrace.compile.wire_features import wire_features, wire_views
from tailrace.compile.wire_model import check_signatures, check_taken
from tailrace.compile.wire_outputs import wire_decision, wire_response, wire_rules
from tailrace.compile.wire_top import wire_top
from tailrace.compile.wiring import Wiring
from tailrace.errors import Problem
from tailrace.inference.declaration import StageDeclaration
from tailrace.inference.signature import Signature
from tailrace.pipeline import Pipeline
from tailrace.request.schema import bounded_type, field_specs

_NO_MODELS: Final[Mapping[StageDeclaration, Signature]] = MappingProxyType({})
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def wire(pipeline: Pipeline, signatures: Mapping[StageDeclaration, Signature] = _NO_MODELS) -> Wiring:
    """Resolve every name of a pipeline. signatures: of its models; the inputs of one that has none stay unchecked."""
    wiring = Wiring({}, pipeline.views)
    _check_name(pipeline, wiring)
    _check_budget(pipeline, wiring)
    if not _read_types(pipeline, wiring):
        return wiring  # without fields no name resolves, and none of that would be the mistake
    wire_views(pipeline, wiring)
    wire_features(pipeline, wiring)
    wire_events(pipeline, wiring)
    wire_compositions(pipeline, wiring)
    check_signatures(pipeline, wiring, signatures)
    signature = next(iter(signatures.values()), None)
    wire_decision(pipeline, wiring, signature)
    check_constants(pipeline, wiring, signatures)
    wire_rules(pipeline, wiring)
    check_taken(pipeline, wiring, signatures)
    wire_top(pipeline, wiring, signature)
    wire_explain(pipeline, wiring)
    wire_response(pipeline, wiring, signature)
    wire_coalesce(pipeline, wiring)
    return wiring


def _check_name(pipeline: Pipeline, wiring: Wiring) -> None:
    if not _NAME.fullmatch(pipeline.name):
        wiring.problems.append(
            Problem(
                f"{pipeline.name!r} cannot stand in a URL",
                "name",
                "use letters, digits, '_', '-' and '.', beginning with a letter or digit",
            )
        )


def _check_budget(pipeline: Pipeline, wiring: Wiring) -> None:
    budget = pipeline.budget
    if budget.buffer_ns < 0:
        over_ms = -budget.buffer_ns / 1e6
        wiring.problems.append(
            Problem(
                f"the layers are promised {over_ms:g} ms more than the total of {budget.total_ns / 1e6:g} ms",
                "budget",
                "give layers less, or the whole more",
            )
        )


def _read_types(pipeline: Pipeline, wiring: Wiring) -> bool:
    """Read the fields of the request, and see that it can be decoded; say whether both types have fields to be read."""
    for place, declared in (("request", pipeline.request), ("response", pipeline.response)):
        where = f"{place} {declared.__name__}"
        try:
            msgspec.structs.fields(declared)
        except Exception as error:  # an annotation may be any expression
            what, next_step = f"an annotation cannot be read: {error}", "import the name it uses at the file's top"
            wiring.problems.append(Problem(what, where, next_step))
            return False
    wiring.fields = field_specs(pipeline.request)
    where = f"request {pipeline.request.__name__}"
    if pipeline.request.__struct_config__.array_like:
        what = "array_like=True makes it an array, which is how a caller sends many requests"
        wiring.problems.append(Problem(what, where, "leave array_like out"))
        return True
    try:
        msgspec.json.Decoder(bounded_type(pipeline.request))
    except Exception as error:  # msgspec's word on a type that JSON cannot hold
        wiring.problems.append(Problem(f"it cannot be read from JSON: {error}", where, "declare it by other types"))
    return True
