"""Wires of events: the time that windows look back from, the entities of events, and the request as an event itself."""

from __future__ import annotations

from typing import Any, Final, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from tailrace.compile.wiring import Wiring, suggest
from tailrace.errors import Problem
from tailrace.features.aggregates import KINDS
from tailrace.features.expressions import Expression, parse_expression
from tailrace.features.streams import StreamFeatureView, StreamViewSpec
from tailrace.features.view_spec import Column
from tailrace.pipeline import Pipeline, is_event_of, stream_views
from tailrace.request.schema import FieldSpec, field_specs

_TIME_KINDS: Final = "Mif"
_NUMBER_KINDS: Final = "biuf"


def wire_events(pipeline: Pipeline, wiring: Wiring) -> None:
    """Check what a pipeline says of time and events."""
    views = stream_views(pipeline)
    if pipeline.time is not None:
        _check_time(pipeline.request, wiring.fields, pipeline.time, "time", wiring)
    for view in views:
        if view.spec.problems:
            continue  # the view has told of them
        _check_stream(view, wiring)
        _check_key(pipeline, view, wiring)
        _check_current(pipeline, view, wiring)
    _check_recorded(pipeline, views, wiring)
    if pipeline.record_requests and not any(is_event_of(pipeline, view.spec.stream) for view in views):
        wiring.problems.append(
            Problem(
                f"no stream of the views has {pipeline.request.__name__} as its schema: a request is an event of none",
                "record_requests",
                f"declare a stream with schema={pipeline.request.__name__}, or leave it out",
            )
        )


def _check_time(declared: type[Any], fields: dict[str, FieldSpec], time: str, where: str, wiring: Wiring) -> None:
    spec = fields.get(time)
    if spec is None:
        what = f"{declared.__name__} has no field {time!r}"
        wiring.problems.append(Problem(what, where, suggest(time, fields)))
    elif spec.many or spec.nullable or spec.dtype.kind not in _TIME_KINDS:
        what = f"{time!r} is no time: a datetime, or a number of seconds since the epoch"
        wiring.problems.append(Problem(what, where, "name another field"))


def _check_recorded(pipeline: Pipeline, views: list[type[StreamFeatureView]], wiring: Wiring) -> None:
    """See that windows look back from when a recorded request happened: from later, it would count itself."""
    if not pipeline.record_requests or (pipeline.time is not None and pipeline.time not in wiring.fields):
        return  # a field that is not there is told
    streams = {view.spec.stream.name: view.spec.stream for view in views if not view.spec.problems}
    for stream in streams.values():
        if stream.time != pipeline.time and is_event_of(pipeline, stream):
            wiring.problems.append(
                Problem(
                    f"a request is an event of {stream.name!r} at its {stream.time!r}, but windows look back from "
                    f"{'when it came' if pipeline.time is None else f'its {pipeline.time!r}'}: it would count itself",
                    "time",
                    f'write time="{stream.time}"',
                )
            )


def _check_stream(view: type[StreamFeatureView], wiring: Wiring) -> None:
    """See that the events have a time, and that each aggregate can be computed of them."""
    spec: StreamViewSpec = view.spec
    fields = field_specs(spec.stream.schema)
    where = f"features.{view.__name__}"
    _check_time(spec.stream.schema, fields, spec.stream.time, f"{where}.stream.time", wiring)
    for name, aggregate in spec.aggregates.items():
        kinds = None if KINDS[aggregate.kind].takes_any else _NUMBER_KINDS
        parts = (
            ("value", aggregate.value, kinds, "aggregate a number"),
            ("where", aggregate.where, "biu", "write a comparison"),
        )
        for part, text, wanted, next_step in parts:
            if text and (what := _mistake(parse_expression(text), fields, wanted)):
                wiring.problems.append(Problem(f"{part}: {what}", f"{where}.{name}", next_step))


def _mistake(expression: Expression, fields: dict[str, FieldSpec], wanted: str | None) -> str:
    """Return what is wrong with an expression over such fields, "" where nothing is. wanted: the dtypes it may give."""
    try:
        found = expression.column(lambda name: _sample(fields[name]), 1).dtype
    except Exception as error:  # NumPy's word on what it cannot compute
        return f"{expression.text!r} cannot be computed: {error}"
    if wanted is None or found.kind in wanted:
        return ""
    return f"{expression.text!r} is a {'text' if found.kind in 'OU' else found.name}"


def _sample(spec: FieldSpec) -> NDArray[Any]:
    """Return a column of a field, with one value."""
    return np.array(["a"], object) if spec.dtype.kind == "O" else np.ones(1, spec.dtype)


def _check_key(pipeline: Pipeline, view: type[StreamFeatureView], wiring: Wiring) -> None:
    """See that the events name their entity as what is asked for does: an int and a text are never the same entity."""
    stream = view.spec.stream
    for part in view.spec.entity.parts:
        if isinstance(part, Column):
            key, asked, asker = part.name, part.id_type, f"the view {part.view}"
        elif part in wiring.fields:
            key, asked, asker = part, _id_type(pipeline.request, part), f"the request {pipeline.request.__name__}"
        else:
            continue
        if asked not in (int, str):
            continue  # the views' keys are checked beside this
        told = _id_type(stream.schema, key)
        if told is not asked:
            wiring.problems.append(
                Problem(
                    f"the events of {stream.name!r} have {key!r} as {_type_name(told)}, {asker} as {asked.__name__}: "
                    "no event would be found",
                    f"features.{view.__name__}.entity",
                    f"declare `{key}: {asked.__name__}` in {stream.schema.__name__}, or the other way round",
                )
            )


def _id_type(declared: type[Any], key: str) -> Any:
    """Return the type of a field; of the members where it is a list."""
    annotation = get_type_hints(declared)[key]
    return get_args(annotation)[0] if get_origin(annotation) is list else annotation


def _type_name(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)


def _check_current(pipeline: Pipeline, view: type[StreamFeatureView], wiring: Wiring) -> None:
    """See that the request has what is counted of it where a column counts the event that is scored."""
    spec: StreamViewSpec = view.spec
    for name, aggregate in spec.aggregates.items():
        if not aggregate.include_current:
            continue
        texts = [text for text in (aggregate.value, aggregate.where) if text]
        missing = {field for text in texts for field in parse_expression(text).fields} - wiring.fields.keys()
        if missing:
            wiring.problems.append(
                Problem(
                    f"it counts the request itself, whose type {pipeline.request.__name__} has no field "
                    f"{min(missing)!r}",
                    f"features.{view.__name__}.{name}",
                    f"declare it in {pipeline.request.__name__}, or leave out include_current",
                )
            )
