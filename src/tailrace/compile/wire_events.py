"""Wires of events: the time that windows look back from, and the request as an event itself."""

from __future__ import annotations

from typing import Final

from tailrace.compile.wiring import Wiring, suggest
from tailrace.errors import Problem
from tailrace.features.expressions import parse_expression
from tailrace.features.streams import StreamFeatureView, StreamViewSpec
from tailrace.pipeline import Pipeline, is_event_of, stream_views

_TIME_KINDS: Final = "Mif"


def wire_events(pipeline: Pipeline, wiring: Wiring) -> None:
    """Check what a pipeline says of time and events."""
    views = stream_views(pipeline)
    if pipeline.time is not None:
        _check_time(pipeline, pipeline.time, wiring)
    for view in views:
        _check_current(pipeline, view, wiring)
    if pipeline.record_requests and not any(is_event_of(pipeline, view.spec.stream) for view in views):
        wiring.problems.append(
            Problem(
                f"no stream of the views has {pipeline.request.__name__} as its schema: a request is an event of none",
                "record_requests",
                f"declare a stream with schema={pipeline.request.__name__}, or leave it out",
            )
        )


def _check_time(pipeline: Pipeline, time: str, wiring: Wiring) -> None:
    spec = wiring.fields.get(time)
    if spec is None:
        what = f"the request {pipeline.request.__name__} has no field {time!r}"
        wiring.problems.append(Problem(what, "time", suggest(time, wiring.fields)))
    elif spec.many or spec.nullable or spec.dtype.kind not in _TIME_KINDS:
        what = f"{time!r} is no time: a datetime, or a number of seconds since the epoch"
        wiring.problems.append(Problem(what, "time", "name another field"))


def _check_current(pipeline: Pipeline, view: type[StreamFeatureView], wiring: Wiring) -> None:
    """See that the request has what is counted of it where a column counts the event that is scored."""
    spec: StreamViewSpec = view.spec
    if spec.problems:
        return
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
