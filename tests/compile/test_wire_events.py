"""Mistakes in what a pipeline says of time and events, found when it is compiled."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any, get_type_hints

import msgspec
import pytest

import tailrace as tr
from tailrace.compile.resolve import wire
from tailrace.errors import Problem
from tailrace.pipeline import Pipeline


class Event(tr.Request):
    event_id: int
    customer_id: int
    code: str
    amount: float
    channel: str
    is_fraud: bool
    flag: int
    day: date
    time: datetime
    note: str | None = None
    maybe_at: datetime | None = None
    maybe_flag: int | None = None


class Answer(tr.Response):
    score: float


class Answers(tr.Response):
    score: list[float]


customer = tr.Entity("customer", key="customer_id")


def stream_of(**changed: Any) -> tr.Stream:
    """Return the stream of the events, with something changed."""
    right: dict[str, Any] = {"schema": Event, "time": "time", "id": "event_id"}
    return tr.Stream("events", **(right | changed))


def view_of(stream: tr.Stream | None = None, entity: tr.Entity = customer, **columns: Any) -> Any:
    """Return a view; of one count where no column is given."""
    columns = columns or {"n": tr.count(window="5m")}
    body = {"entity": entity, "stream": stream or stream_of(), "__annotations__": dict.fromkeys(columns, float)}
    return type("Activity", (tr.StreamFeatureView,), body | columns)


def problems_of(view: Any, *, request: Any = Event, **more: Any) -> list[Problem]:
    """Return the mistakes in a pipeline of one view."""
    is_many = any("list" in str(kind) for kind in get_type_hints(request).values())
    pipeline = Pipeline(
        name="p",
        request=request,
        response=Answers if is_many else Answer,
        features=[view],
        model=tr.Model("m"),
        budget=tr.Budget("50ms"),
        **more,
    )
    problems = wire(pipeline).problems
    assert all(all(problem) for problem in problems)
    return problems


def request_with(**fields: Any) -> Any:
    """Return a request type of the events' fields, some of another type."""
    kinds = {"customer_id": int, "amount": float, "time": datetime} | fields
    return msgspec.defstruct("Asked", list(kinds.items()), bases=(tr.Request,), kw_only=True, frozen=True)


def test_pipeline_without_a_mistake_has_none() -> None:
    """Whether the request is the event, or another type with the key; texts may be compared and counted."""
    view = view_of(
        n=tr.count(window="5m", where="channel == 'a' and is_fraud"),
        m=tr.mean("amount * 2", window="5m", where="flag"),
        kinds=tr.distinct("channel", window="5m"),
        frauds=tr.sum("is_fraud", window="5m"),
    )
    assert problems_of(view, time="time", record_requests=True) == []
    assert problems_of(view, request=request_with()) == []
    assert problems_of(view, request=request_with(customer_id=list[int])) == []


@pytest.mark.parametrize(
    ("asked", "key"), [(str, "customer_id"), (list[str], "customer_id"), (int, "code"), (list[int], "code")]
)
def test_key_of_another_type_than_the_events_have_is_told(asked: Any, key: str) -> None:
    """An int and a text are never one entity: nothing that is counted would be found."""
    view = view_of(entity=tr.Entity("customer", key=key))
    (problem,) = problems_of(view, request=request_with(**{key: asked}))
    assert "no event would be found" in problem.what
    assert problem.where == "features.Activity.entity"
    assert f"declare `{key}: " in problem.next


def test_part_of_another_type_than_the_events_have_is_told() -> None:
    """Each field of a key by itself; a list of the right type makes rows, and is right."""
    view = view_of(entity=tr.Entity("pair", key=("customer_id", "code")))
    assert problems_of(view, request=request_with(code=str)) == []
    assert problems_of(view, request=request_with(customer_id=list[int], code=str)) == []
    (problem,) = problems_of(view, request=request_with(code=int))
    assert "have 'code' as str, the request Asked as int: no event would be found" in problem.what


@pytest.mark.parametrize("key", ["amount", "note"])
def test_key_that_is_no_id_among_the_events_is_told(key: str) -> None:
    """A number that is not whole, or one that may be null, is no entity."""
    (problem,) = problems_of(view_of(entity=tr.Entity("customer", key=key)), request=request_with(**{key: int}))
    assert "no event would be found" in problem.what


def test_key_that_the_events_have_not_is_told_once() -> None:
    """The view's own problem is enough."""
    view = view_of(entity=tr.Entity("terminal", key="terminal_id"))
    (problem,) = problems_of(view, request=request_with(terminal_id=int))
    assert "the events of 'events' have no field 'terminal_id'" in problem.what


@pytest.mark.parametrize("field", ["code", "maybe_at", "is_fraud"])
def test_time_of_a_stream_that_is_none_is_told(field: str) -> None:
    """A text, or what may be null, is no time."""
    (problem,) = problems_of(view_of(stream_of(time=field)))
    assert problem.where == "features.Activity.stream.time"
    assert f"{field!r} is no time" in problem.what


def test_time_of_a_pipeline_that_is_none_is_told() -> None:
    """A field that is not there, or is no time."""
    (problem,) = problems_of(view_of(), time="tme")
    assert (problem.where, problem.next) == ("time", "did you mean 'time'?")
    (problem,) = problems_of(view_of(), time="code")
    assert problem.where == "time"


@pytest.mark.parametrize(
    ("column", "what"),
    [
        (tr.sum("channel", window="5m"), "value: 'channel' is a text"),
        (tr.last("time", window="5m"), "value: 'time' is a datetime64[us]"),
        (tr.sum("channel + 1", window="5m"), "value: 'channel + 1' cannot be computed"),
        (tr.distinct("channel * channel", window="5m"), "value: 'channel * channel' cannot be computed"),
        (tr.count(window="5m", where="channel"), "where: 'channel' is a text"),
        (tr.count(window="5m", where="amount"), "where: 'amount' is a float64"),
        (tr.count(window="5m", where="maybe_flag"), "where: 'maybe_flag' is a float64"),
        (tr.count(window="5m", where="amount > 'a'"), "where: \"amount > 'a'\" cannot be computed"),
    ],
)
def test_aggregate_that_cannot_be_computed_is_told(column: Any, what: str) -> None:
    """Before the first event comes, and not with each of them."""
    (problem,) = problems_of(view_of(column=column))
    assert problem.where == "features.Activity.column"
    assert problem.what.startswith(what)


def test_column_that_counts_the_request_wants_its_fields() -> None:
    """The request must have what is counted of it."""
    view = view_of(n=tr.count(window="5m", where="flag == 1", include_current=True))
    assert problems_of(view) == []
    (problem,) = problems_of(view, request=request_with())
    assert "has no field 'flag'" in problem.what


def test_request_that_is_no_event_cannot_be_recorded() -> None:
    """Nothing would be counted, and nobody would notice."""
    (problem,) = problems_of(view_of(), request=request_with(), record_requests=True)
    assert problem.where == "record_requests"


@pytest.mark.parametrize(("more", "seen"), [({}, "when it came"), ({"time": "seen_at"}, "its 'seen_at'")])
def test_recorded_request_that_would_count_itself_is_told(more: dict[str, Any], seen: str) -> None:
    """Its windows must look back from where it is an event; where nothing is recorded, from wherever it says."""
    request = request_with(event_id=int, seen_at=datetime)
    view = view_of(stream_of(schema=request))
    (problem,) = problems_of(view, request=request, record_requests=True, **more)
    assert problem.where == "time"
    assert f"an event of 'events' at its 'time', but windows look back from {seen}" in problem.what
    assert problem.next == 'write time="time"'
    assert problems_of(view, request=request, **more) == []
    assert problems_of(view, request=request, record_requests=True, time="time") == []
    (problem,) = problems_of(view, request=request, record_requests=True, time="tme")
    assert "has no field 'tme'" in problem.what
