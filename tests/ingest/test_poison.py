"""An event that cannot be counted: a log has where it is and what is wrong with it, and nothing that it holds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, Literal

import msgspec
import pytest
from structlog.testing import capture_logs

import tailrace as tr
from tailrace.deadline import MonotonicClock
from tailrace.features.stores.memory import MemoryWriter
from tailrace.features.streams import StreamFeatureView
from tailrace.ingest.applier import Applier
from tailrace.ingest.consumer import Arrived
from tailrace.ingest.counting import StreamCounter
from tailrace.ingest.poison import EVENT_CHARACTERS_MAX, PoisonEvent
from tailrace.ingest.run import EXAMPLES_MAX, IngestReport, StreamWriters, ingest_stream
from tailrace.monitor.layout import consumer_layout
from tailrace.monitor.recorder import ConsumerRecorder
from tailrace.monitor.shared import MetricBlock
from tailrace.server.companion_process import CompanionProcess
from tailrace.server.consumer import StreamFollower

SECRET = "jane.doe@example.com"


class Level(Enum):
    """Of a payment."""

    LOW = "low"


class Payment(tr.Request):
    """An event whose time is not read before it is counted."""

    payment_id: int
    customer_id: int
    time: str
    kind: Literal["card", "cash"] = "card"
    level: Level = Level.LOW


payments = tr.Stream("payments", schema=Payment, time="time", id="payment_id")


class Activity(StreamFeatureView):
    """A view of them."""

    entity = tr.Entity("customer", key="customer_id")
    stream = payments
    count: int = tr.count(window="1h")


class Broker:
    """Brings events once."""

    where = "memory://here"
    partitions: Mapping[str, bool] = {}

    def __init__(self, events: Sequence[bytes]) -> None:
        offsets = [str(100 + number) for number in range(len(events))]
        self._arrived = [[Arrived("paid/3", events, offsets, None)]]

    def poll(self, wait_s: float) -> Sequence[Arrived]:
        """Return them, then nothing."""
        return self._arrived.pop() if self._arrived else ()

    def commit(self, arrived: Sequence[Arrived]) -> None:
        """Do nothing: they do not come again."""

    def lag(self) -> int:
        """Return that nothing is to come."""
        return 0

    def close(self) -> None:
        """Do nothing."""


class MemoryWriters(StreamWriters):
    """A store in memory, in which no use is noted."""

    def __init__(self) -> None:
        applier = Applier(payments, [Activity.spec], MemoryWriter({}), MonotonicClock())
        self.counter = StreamCounter(payments, [applier])

    def note_use_when_due(self) -> None:
        """Do nothing."""


def event(number: int, **more: Any) -> bytes:
    """Return an event."""
    return json.dumps({"payment_id": number, "customer_id": 7, "time": "1750000000", **more}).encode()


def ingested(events: Sequence[bytes]) -> IngestReport:
    """Count events in."""
    return ingest_stream(
        payments, Broker(events), MemoryWriters(), lambda: False, lambda report, lag: None, until_idle=True
    )


@pytest.mark.parametrize(
    ("poison", "fault"),
    [
        (event(2, kind=SECRET), "ValidationError at `kind`"),
        (event(2, level=SECRET), "ValidationError at `level`"),
        (event(2, time=SECRET), "ValueError"),
        (event(2, **{SECRET: 1}), "ValidationError"),
        (event(2, **{f"a - at `$.{SECRET}": 1}), "ValidationError"),
        (f"{{{SECRET}".encode(), "DecodeError"),
        (event(2, kind="ü" + SECRET).decode("unicode_escape").encode("latin-1"), "UnicodeDecodeError"),
    ],
)
def test_fault_of_an_event_has_its_offset_and_its_field_and_nothing_that_it_holds(poison: bytes, fault: str) -> None:
    """Though the error quotes it; whoever gave the command sees that, and the event."""
    report = ingested([event(1), poison, event(3)])
    assert (report.counted, report.poison) == (2, 1)
    (example,) = report.examples
    assert example.fault == f"memory://here paid/3 101: {fault}"
    assert example.why.startswith("memory://here paid/3 101: ")
    assert SECRET in example.event
    assert SECRET in str(example)


def test_consumer_logs_where_poison_is_and_nothing_that_it_holds() -> None:
    """Each example once, the first of them only; /metrics has their number."""
    with capture_logs() as logs:
        task: Any = None
        channel: Any = None
        follower = StreamFollower(CompanionProcess("consumer", task, channel, 0.0))
        follower._recorder = ConsumerRecorder(MetricBlock.create(consumer_layout("payments")), "payments")
        report = ingested([event(number, time=SECRET, kind="card") for number in range(EXAMPLES_MAX + 1)])
        for _ in "ab":
            follower._note(report, 0)
    assert [log["cause"] for log in logs] == [
        f"memory://here paid/3 {100 + number}: ValueError" for number in range(EXAMPLES_MAX)
    ]
    assert SECRET not in str(logs)


def test_event_of_an_example_is_cut() -> None:
    """It may be a megabyte."""
    assert len(PoisonEvent.of(ValueError("no"), "here", "x" * 10_000, ()).event) == EVENT_CHARACTERS_MAX


def test_field_within_a_list_is_named_by_the_schema() -> None:
    """The rest of the path, and what only looks like one, is left out."""
    error = msgspec.ValidationError("Expected `int`, got `str` - at `$.lines[0].price`")
    assert PoisonEvent.of(error, "here", "", {"lines"}).fault == "here: ValidationError at `lines`"
    assert PoisonEvent.of(error, "here", "", {"price"}).fault == "here: ValidationError"
