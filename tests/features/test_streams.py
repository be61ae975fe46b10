"""Streams and stream views as they are declared: what a view says, what its state is told by, and every mistake."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import numpy as np
import pytest

from tailrace.features import aggregates as of
from tailrace.features.sources import Parquet
from tailrace.features.streams import Stream, StreamFeatureView
from tailrace.features.view_spec import Column, Entity
from tailrace.features.windows import Window
from tailrace.request.schema import Field, Request

S = 10**9
customer = Entity("customer", key="customer_id")


class Payment(Request):
    payment_id: int
    other_id: int
    code: Annotated[str, Field(min_length=1)]
    customer_id: int
    amount: float
    channel: str
    time: datetime
    seen: float


class TextPayment(Payment):
    payment_id: str  # type: ignore[assignment]


payments = Stream("payments", schema=Payment, time="time", id="payment_id")


def view_of(columns: dict[str, Any], **more: Any) -> type[StreamFeatureView]:
    """Return a view of columns, each given by its aggregate, or by its type and its aggregate."""
    pairs = {name: each if isinstance(each, tuple) else (float, each) for name, each in columns.items()}
    body = {
        "entity": customer,
        "stream": payments,
        "__annotations__": {name: kind for name, (kind, _) in pairs.items()},
    }
    return type("Activity", (StreamFeatureView,), body | {name: each for name, (_, each) in pairs.items()} | more)


def schema_id(columns: dict[str, Any], **more: Any) -> int:
    """Return by what the state of a view is told."""
    view = view_of(columns, **more)
    assert not view.spec.problems, view.spec.problems
    return view.spec.codec().schema_id


SPENT: dict[str, Any] = {"window": "1h", "where": "amount > 1 and channel == 'a'", "decimals": 2}
BASE: dict[str, Any] = {
    "spent": of.sum_("amount", **SPENT),
    "n": of.count(window="5m", delay="30s"),
}


def test_stream_view_tells_the_declaration() -> None:
    """Entity, stream, key and columns; aggregates that need the same share a lane, and equal windows are one."""

    class Activity(StreamFeatureView):
        entity = customer
        stream = payments
        n: int = of.count(window="5m")
        spent: float = of.sum_("amount", window="300s", decimals=2)
        average: np.float32 = of.mean("amount", window="1d", decimals=2)
        since: float = of.since_last()

    spec = Activity.spec
    assert spec.problems == ()
    assert (spec.name, spec.entity, spec.stream, spec.key) == ("Activity", customer, payments, "customer_id")
    assert [(each.name, each.dtype.str, each.default) for each in spec.columns] == [
        ("n", "<i8", 0), ("spent", "<f8", 0.0), ("average", "<f4", 0.0), ("since", "<f8", -1.0),
    ]  # fmt: skip
    assert spec.windows.windows == (Window(300 * S), Window(86_400 * S), Window(None))
    assert len(spec.windows.lanes) == 4  # two counts, of all events and of those with an amount; a sum; the latest
    assert Activity.n == Column("n", np.dtype("<i8"), 0, "Activity")


def test_stream_view_extended_keeps_the_columns_of_its_base() -> None:
    """A view that extends another has its aggregates, and may change one."""
    base = view_of(BASE)
    more = type("More", (base,), {"__annotations__": {"n": int, "m": int}, "n": of.count(window="7m"),
                                  "m": of.count(window="1d")})  # fmt: skip
    assert more.spec.problems == ()
    assert list(more.spec.aggregates) == ["spent", "n", "m"]
    assert more.spec.aggregates["spent"] == BASE["spent"]
    assert more.spec.aggregates["n"].window == "7m"


@pytest.mark.parametrize(
    "columns",
    [
        {"n": BASE["n"], "spent": BASE["spent"]},
        {"total": BASE["spent"], "number": BASE["n"]},
        BASE | {"n": of.count(window="5m", delay="30s", default=7)},
        BASE | {"spent": of.sum_("amount", include_current=True, **SPENT)},
        BASE | {"n": (int, BASE["n"])},
        BASE | {"n": of.count(window="300s", delay="0.5m")},
        BASE | {"spent": of.sum_("(amount)", window="60m", where="(amount>1) and channel=='a'", decimals=2)},
        BASE | {"again": BASE["n"]},
    ],
    ids=["order", "names", "default", "include_current", "type", "durations", "blanks", "twice"],
)
def test_state_is_told_by_what_is_kept_alone(columns: dict[str, Any]) -> None:
    """What changes nothing of a state makes no new one, and reads the old one's lanes from their places."""
    assert schema_id(columns) == schema_id(BASE)
    one, other = view_of(columns).spec.windows, view_of(BASE).spec.windows
    assert one.lanes == other.lanes


def test_state_outlives_a_change_of_what_is_not_kept() -> None:
    """The stream's lateness and source, whatever they become."""
    later = Stream("payments", schema=Payment, time="time", id="payment_id", lateness="1d", source=Parquet("a.parquet"))
    assert schema_id(BASE, stream=later) == schema_id(BASE)


CHANGED: dict[str, dict[str, Any]] = {
    "kind": BASE | {"n": of.since_last(window="5m", delay="30s")},
    "sum to mean": BASE | {"spent": of.mean("amount", window="1h", where="amount > 1 and channel == 'a'", decimals=2)},
    "value": BASE | {"spent": of.sum_("seen", window="1h", where="amount > 1 and channel == 'a'", decimals=2)},
    "window": BASE | {"n": of.count(window="6m", delay="30s")},
    "lifetime": BASE | {"n": of.count(window="lifetime", delay="30s")},
    "where": BASE | {"spent": of.sum_("amount", window="1h", where="amount > 2 and channel == 'a'", decimals=2)},
    "no where": BASE | {"spent": of.sum_("amount", window="1h", decimals=2)},
    "delay": BASE | {"n": of.count(window="5m")},
    "decimals": BASE | {"spent": of.sum_("amount", window="1h", where="amount > 1 and channel == 'a'")},
    "more": BASE | {"m": of.count(window="1d")},
    "less": {"n": BASE["n"]},
}


@pytest.mark.parametrize("change", CHANGED)
def test_state_is_told_from_that_of_a_changed_aggregate(change: str) -> None:
    """Whatever changes what is kept of an event makes another state."""
    assert schema_id(CHANGED[change]) != schema_id(BASE)


@pytest.mark.parametrize(
    "more",
    [
        {"stream": Stream("refunds", schema=Payment, time="time", id="payment_id")},
        {"stream": Stream("payments", schema=Payment, time="seen", id="payment_id")},
        {"stream": Stream("payments", schema=Payment, time="time", id="other_id")},
        {"stream": Stream("payments", schema=Payment, time="time", id="code")},
        {"stream": Stream("payments", schema=TextPayment, time="time", id="payment_id")},
        {"entity": Entity("client", key="customer_id")},
        {"entity": Entity("customer", key="other_id")},
        {"entity": Entity("customer", key=("customer_id", "other_id"))},
    ],
    ids=["stream", "time", "id", "text", "type of id", "entity", "key", "composite key"],
)
def test_state_is_told_from_that_of_other_events(more: dict[str, Any]) -> None:
    """Another stream, time, id or entity is another state."""
    assert schema_id(BASE, **more) != schema_id(BASE)


def test_stream_view_without_a_stream_or_with_another_thing_is_a_problem() -> None:
    """Nothing is raised; the problem says where, and what to write."""
    for stream, what in ((None, "names no stream"), (Payment, "is not a Stream")):
        (problem,) = view_of(BASE, stream=stream).spec.problems
        assert what in problem.what
        assert (problem.where, bool(problem.next)) == ("features.Activity.stream", True)


@pytest.mark.parametrize(
    ("declared", "where"),
    [
        ({"time": "when"}, ".stream.time"),
        ({"id": "key"}, ".stream.id"),
        ({"id": "amount"}, ".stream.id"),
        ({"lateness": "soon"}, ".stream.lateness"),
        ({"lateness": "366d"}, ".stream.lateness"),
        ({"name": "pay/ments"}, ".stream.name"),
        ({"name": ""}, ".stream.name"),
    ],
)
def test_mistake_in_a_stream_is_a_problem(declared: dict[str, Any], where: str) -> None:
    """A field that is not there, or of another type; a lateness that is none; a name that no URL has."""
    right: dict[str, Any] = {"name": "payments", "schema": Payment, "time": "time", "id": "payment_id"}
    (problem,) = view_of(BASE, stream=Stream(**(right | declared))).spec.problems
    assert problem.where == f"features.Activity{where}"
    assert problem.what
    assert problem.next


def test_key_that_the_events_have_not_is_a_problem() -> None:
    """The events must say of which entity they are."""
    (problem,) = view_of(BASE, entity=Entity("terminal", key="terminal_id")).spec.problems
    assert problem.what == "the events of 'payments' have no field 'terminal_id', the key of entity 'terminal'"
    assert problem.next == "declare it in Payment"
    (problem,) = view_of(BASE, entity=Entity("pair", key=("customer_id", "terminal_id"))).spec.problems
    assert "no field 'terminal_id'" in problem.what


@pytest.mark.parametrize(
    ("column", "what"),
    [
        ((int, of.sum_("amount", window="5m", default=0)), "sum gives no int64"),
        ((np.uint32, of.mean("amount", window="5m", default=0)), "mean gives no uint32"),
        ((bool, of.count(window="5m")), "bool"),
        ((np.int8, of.count(window="5m")), "count may be more than fits int8"),
        ((np.uint8, of.count(window="5m")), "count may be more than fits uint8"),
        ((np.int16, of.distinct("channel", window="5m")), "distinct may be more than fits int16"),
        ((np.uint16, of.distinct("channel", window="5m")), "distinct may be more than fits uint16"),
        ((float, 3.0), "no default"),
        (of.sum_("cents", window="5m"), "no field 'cents'"),
        (of.sum_("", window="5m"), "value"),
        (of.sum_("amount +", window="5m"), "value"),
        (of.count(window="5m", where="terminal == 3"), "no field 'terminal'"),
        (of.count(window="5m", where="len(channel)"), "where"),
        (of.sum_("amount", window="5m", decimals=10), "decimals"),
        (of.count(window="5 minutes"), "not a duration"),
        (of.count(window="0s"), "a window of '0s'"),
        (of.count(window="1500ms"), "a window of '1500ms'"),
        (of.count(window="366d"), "a window of '366d'"),
        (of.count(window="5m", delay="11m"), "a delay of '11m'"),
        (of.count(window="5m", delay="1.5s"), "a delay of '1.5s'"),
        (of.count(window="5m", delay="1s", include_current=True), "include_current with a delay of '1s'"),
    ],
)
def test_mistake_in_an_aggregate_is_a_problem(column: Any, what: str) -> None:
    """Each names the column, says what is wrong with it and what to write."""
    problems = view_of({"column": column}).spec.problems
    assert problems
    assert what in problems[0].what
    assert problems[0].where == "features.Activity.column"
    assert problems[0].next
