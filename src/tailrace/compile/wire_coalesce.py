"""Wires of shared answers: the fields by which requests are told apart, which must be all that an answer depends on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tailrace.compile.wiring import Origin, Wire, Wiring
from tailrace.errors import Problem
from tailrace.features.expressions import parse_expression
from tailrace.pipeline import Pipeline, is_event_of, stream_views


def wire_coalesce(pipeline: Pipeline, wiring: Wiring) -> None:
    """Find the fields that are compared, and see that nothing reads another.

    What a function takes of the request as a whole is seen when it is tried: it is given only these fields.
    """
    coalesce = pipeline.coalesce
    if coalesce is None:
        return
    if coalesce.ttl_ns and pipeline.record_requests:
        what = "each request is an event, which changes what the next one is answered; a kept answer would not see it"
        next_step = "leave ttl out: requests that are in flight at once are shared, and each is counted"
        wiring.problems.append(Problem(what, "coalesce", next_step))
    if coalesce.on is None:
        wiring.compared = tuple(wiring.fields)
        return
    compared = []
    for member in coalesce.on:
        name = member.__name__
        if issubclass(pipeline.request, member.__objclass__):
            compared.append(name)
        else:
            what = f"{member.__objclass__.__name__}.{name} is not of this request"
            wiring.problems.append(Problem(what, "coalesce.on", f"use {pipeline.request.__name__}"))
    wiring.compared = tuple(dict.fromkeys(compared))
    readers: dict[str, str] = {}
    for name, reader in _read_fields(pipeline, wiring):
        readers.setdefault(name, reader)
    for name, reader in readers.items():
        if name in wiring.fields and name not in wiring.compared:
            what = f"{reader} reads {name!r}: requests that differ in it are answered differently"
            wiring.problems.append(Problem(what, "coalesce.on", f"add {pipeline.request.__name__}.{name}"))


def _read_fields(pipeline: Pipeline, wiring: Wiring) -> Iterator[tuple[str, str]]:
    """Give the fields of the request that an answer depends on, each with what reads it."""
    for view, entity in zip(wiring.views, wiring.entities, strict=True):
        yield from ((name, f"the key of {view.__name__}") for name in entity.parts if isinstance(name, str))
    yield from _fields_of(wiring.features.items(), "the feature {}")
    for feature, wires in wiring.on_demand.values():
        yield from _fields_of(((feature.name, wire) for wire in wires), "the feature {}")
    yield from _fields_of(((stage.name, wire) for stage, wire in wiring.chosen_by.items()), "the stage {}")
    for rule, wires in zip(pipeline.rules, wiring.rules, strict=False):
        yield from _fields_of(((rule.name, wire) for wire in wires), "the rule {}")
    yield from _event_fields(pipeline)
    for field, reader in ((wiring.top, "top"), (wiring.explain, "explain")):
        if isinstance(field, str):
            yield field, reader


def _fields_of(wires: Iterable[tuple[str, Wire]], reader: str) -> Iterator[tuple[str, str]]:
    """Give the fields among some wires, each with what reads it."""
    return ((wire.name, reader.format(name)) for name, wire in wires if wire.origin is Origin.REQUEST and wire.name)


def _event_fields(pipeline: Pipeline) -> Iterator[tuple[str, str]]:
    """Give the fields by which windows look back, and those of the request as an event."""
    if pipeline.time is not None:
        yield pipeline.time, "time"
    for view in stream_views(pipeline):
        if view.spec.problems:
            continue
        if is_event_of(pipeline, view.spec.stream):
            yield view.spec.stream.id, f"the stream of {view.__name__}"
        for aggregate in view.spec.aggregates.values():
            if aggregate.include_current:
                texts = filter(None, (aggregate.value, aggregate.where))
                yield from ((name, view.__name__) for text in texts for name in parse_expression(text).fields)
