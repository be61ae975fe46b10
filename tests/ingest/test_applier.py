"""Events into states through a store: what becomes of each, and what others in the same store see of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from features.redis_server import RedisServer
from tailrace.errors import StoreError
from tailrace.features.aggregates import count, sum_
from tailrace.features.keys import TOMBSTONE, KeyFormat
from tailrace.features.stores.memory import MemoryWriter
from tailrace.features.stores.opening import open_writer
from tailrace.features.stores.protocol import Changes, StoreWriter
from tailrace.features.streams import Stream, StreamFeatureView
from tailrace.features.updates import Fate
from tailrace.features.view_spec import Entity
from tailrace.ingest.applier import FUTURE_NS, Applier
from tailrace.ingest.decoded import DecodedEvents
from tailrace.ingest.watermark import NEVER_NS, read_watermark, watermark_key
from tailrace.request.schema import Request
from tailrace.testing import ManualClock

S = 10**9
BASE_S = 1_533_081_600


class Payment(Request):
    payment_id: int
    customer_id: int
    terminal_id: str
    amount: float
    time: float


payments = Stream("payments", schema=Payment, time="time", id="payment_id")


class CustomerActivity(StreamFeatureView):
    entity = Entity("customer", key="customer_id")
    stream = payments
    n: int = count(window="lifetime")
    spent: float = sum_("amount", window="lifetime", decimals=2)


class TerminalActivity(StreamFeatureView):
    entity = Entity("terminal", key="terminal_id")
    stream = payments
    n: int = count(window="lifetime")


VIEWS: Any = (CustomerActivity, TerminalActivity)


@pytest.fixture(params=["memory", "lmdb", "redis"])
def writer(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StoreWriter]:
    """Yield a writer of an empty store of each kind."""
    url = f"{request.param}:{tmp_path / 'store'}"
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        url = server.url
    writer = open_writer(url)
    yield writer
    writer.close()


def applier_of(writer: StoreWriter, clock: ManualClock | None = None, views: Sequence[Any] = VIEWS) -> Applier:
    """Return an applier of the payments."""
    return Applier(payments, [view.spec for view in views], writer, clock or ManualClock())


def payment(number: int, at_s: float, customer: int = 1, terminal: str = "t1", amount: float = 0.1) -> Payment:
    """Return an event, so many seconds after the first."""
    return Payment(payment_id=number, customer_id=customer, terminal_id=terminal, amount=amount, time=BASE_S + at_s)


def applied(applier: Applier, *events: Payment) -> list[Fate]:
    """Count events in; return what became of each."""
    return list(map(Fate, applier.apply(DecodedEvents(payments).columns(events)).tolist()))


def counts(writer: StoreWriter, view: Any, *ids: Any, column: str = "n") -> list[Any]:
    """Return a column of some entities, as of days after the first event."""
    codec = view.spec.codec()
    rows = [writer.get(key) for key in codec.keys(ids)]
    found: list[Any] = codec.unpack(list(ids), rows, (BASE_S + 10**6) * S).column(column).tolist()
    return found


def test_events_are_counted_for_every_entity_and_view(writer: StoreWriter) -> None:
    """One update of the store for all of them; money is exact; another entity has its defaults."""
    applier = applier_of(writer)
    events = [payment(number, number, customer=number % 2, terminal=f"t{number % 3}") for number in range(12)]
    assert applied(applier, *events) == [Fate.COUNTED] * 12
    assert counts(writer, CustomerActivity, 0, 1, 2) == [6, 6, 0]
    assert counts(writer, CustomerActivity, 0, column="spent") == [0.6]
    assert counts(writer, TerminalActivity, "t0", "t1", "t2", "1") == [4, 4, 4, 0]
    assert read_watermark(writer.get(watermark_key("payments"))).at_ns == (BASE_S + 9) * S


def test_no_events_change_nothing(writer: StoreWriter) -> None:
    """Not even the watermark."""
    assert applied(applier_of(writer)) == []
    assert writer.get(watermark_key("payments")) is None


def test_each_event_has_its_fate(writer: StoreWriter) -> None:
    """Late, future and duplicate ones are told, in their places among the others, and counted nowhere."""
    clock = ManualClock(wall_ns=(BASE_S + 10_000) * S)
    applier = applier_of(writer, clock)
    assert set(applied(applier, *(payment(number, 9_000 + number) for number in range(3)))) == {Fate.COUNTED}
    at_most_s = 10_000 + FUTURE_NS // S
    fates = applied(
        applier,
        payment(10, 8_399.9),
        payment(11, 9_100),
        payment(1, 9_001),
        payment(12, at_most_s + 0.1),
        payment(11, 9_100),
        payment(13, 8_400),
        payment(14, at_most_s),
    )
    expected = [Fate.LATE, Fate.COUNTED, Fate.DUPLICATE, Fate.FUTURE, Fate.DUPLICATE, Fate.COUNTED, Fate.COUNTED]
    assert fates == expected
    assert counts(writer, CustomerActivity, 1) == [6]


def test_future_event_moves_no_watermark(writer: StoreWriter) -> None:
    """Three clocks that are wrong do not make all others late."""
    applier = applier_of(writer, ManualClock(wall_ns=BASE_S * S))
    assert applied(applier, *(payment(number, 10**7 + number) for number in range(5))) == [Fate.FUTURE] * 5
    assert applier.watermark.at_ns == NEVER_NS
    assert applied(applier, payment(9, 0)) == [Fate.COUNTED]


def test_event_of_no_time_is_late_from_the_first(writer: StoreWriter) -> None:
    """What is no number, and what no clock ever showed, is refused by name and harms no other event of the batch."""
    fates = applied(
        applier_of(writer), *(payment(number, at) for number, at in enumerate([float("nan"), -1e300, 0.0, 1e300]))
    )
    assert fates == [Fate.LATE, Fate.LATE, Fate.COUNTED, Fate.FUTURE]
    assert counts(writer, CustomerActivity, 1) == [1]


def test_event_of_a_forgotten_entity_is_refused(writer: StoreWriter) -> None:
    """It is counted for nobody who is forgotten; the event's other entities have it, and its fate says so."""
    applier = applier_of(writer)
    applied(applier, payment(1, 1, customer=1), payment(2, 2, customer=2))
    codec = CustomerActivity.spec.codec()
    writer.exchange([(KeyFormat("customer", TOMBSTONE).key(1), b"1")], codec.keys([1]))
    assert applied(applier, payment(3, 3, customer=1), payment(4, 4, customer=2)) == [Fate.FORGOTTEN, Fate.COUNTED]
    assert counts(writer, CustomerActivity, 1, 2) == [0, 2]
    assert counts(writer, TerminalActivity, "t1") == [4]


def test_restarted_applier_goes_on(writer: StoreWriter) -> None:
    """What was counted is known again, and the watermark is where it was."""
    events = [payment(number, 1_000 * number) for number in range(4)]
    applied(applier_of(writer), *events)
    again = applier_of(writer)
    assert again.watermark.at_ns == (BASE_S + 1_000) * S
    assert applied(again, *events, payment(9, 399)) == [Fate.LATE, *[Fate.DUPLICATE] * 3, Fate.LATE]
    assert counts(writer, CustomerActivity, 1) == [4]


def test_appliers_of_one_store_know_one_watermark(writer: StoreWriter) -> None:
    """Neither writes the other's back: each reads it within its update, and refuses what the other makes late."""
    one, other = applier_of(writer), applier_of(writer)
    applied(one, *(payment(number, 5_000 + number, customer=1) for number in range(3)))
    assert applied(other, payment(10, 10, customer=2), payment(11, 5_001, customer=3)) == [Fate.LATE, Fate.COUNTED]
    assert counts(writer, CustomerActivity, 1, 2, 3) == [3, 0, 1]
    assert writer.get(CustomerActivity.spec.codec().keys([2])[0]) is None
    stored = read_watermark(writer.get(watermark_key("payments")))
    assert stored.at_ns == other.watermark.at_ns == (BASE_S + 5_000) * S
    applied(other, payment(12, 7_000), payment(13, 7_001), payment(14, 7_002))
    applied(one, payment(15, 6_500))
    assert read_watermark(writer.get(watermark_key("payments"))).at_ns == (BASE_S + 7_000) * S
    assert applied(one, payment(16, 6_399)) == [Fate.LATE]


def test_batch_over_more_than_the_lateness_is_counted_whole(writer: StoreWriter) -> None:
    """An event is late by those before its batch, not by those in it."""
    applier = applier_of(writer)
    assert set(applied(applier, *(payment(number, 700 * number) for number in range(6)))) == {Fate.COUNTED}
    assert counts(writer, CustomerActivity, 1) == [6]


class HalfWriter(MemoryWriter):
    """A writer that fails when half of an update is written, as a network store may."""

    def update(self, changes: Changes, notes: Sequence[tuple[bytes, bytes]] = ()) -> None:
        """Write the first values alone."""
        before = list(map(self._rows.get, changes.keys))
        after = changes.values(range(len(before)), before, [False] * len(before))
        for key, value in list(zip(changes.keys, after, strict=True))[: len(before) // 2]:
            if value is not None:
                self._rows[key] = value
        raise StoreError("the network is away")


def test_events_that_come_again_after_a_failure_are_counted_once() -> None:
    """What was half written is made whole, and no event is lost for having come before."""
    rows: dict[bytes, bytes] = {}
    events = [payment(number, 700 * number, customer=number % 3, terminal=f"t{number}") for number in range(6)]
    failing = applier_of(HalfWriter(rows))
    for _ in range(2):
        with pytest.raises(StoreError):
            applied(failing, *events)
    assert failing.watermark.at_ns == NEVER_NS
    writer = MemoryWriter(rows)
    applied(applier_of(writer), *events)
    assert counts(writer, CustomerActivity, 0, 1, 2) == [2, 2, 2]
    assert counts(writer, TerminalActivity, *(f"t{number}" for number in range(6))) == [1] * 6


def test_update_that_is_asked_twice_comes_to_the_same() -> None:
    """A store may begin its transaction again: then the batch makes none of its own events late."""

    class Again(MemoryWriter):
        def update(self, changes: Changes, notes: Sequence[tuple[bytes, bytes]] = ()) -> None:
            before = list(map(self._rows.get, changes.keys))
            changes.values(range(len(before)), before, [False] * len(before))
            super().update(changes, notes)

    rows: dict[bytes, bytes] = {}
    applier = applier_of(Again(rows))
    assert set(applied(applier, *(payment(number, 700 * number) for number in range(6)))) == {Fate.COUNTED}
    assert counts(MemoryWriter(rows), CustomerActivity, 1) == [6]


def test_appliers_side_by_side_on_a_network_store_lose_nothing(redis_server: RedisServer) -> None:
    """Two that count events of the same entities at once: each event is there, once, though each came to both."""
    events = [payment(number, number % 97, customer=number % 3, terminal=f"t{number % 2}") for number in range(240)]
    orders = [events, events[::-1]]

    def run(order: list[Payment]) -> None:
        with closing(open_writer(redis_server.url)) as writer:
            applier = applier_of(writer)
            for begin in range(0, len(order), 8):
                applied(applier, *order[begin : begin + 8])

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(run, orders))
    with closing(open_writer(redis_server.url)) as writer:
        assert counts(writer, CustomerActivity, 0, 1, 2) == [80, 80, 80]
        assert counts(writer, TerminalActivity, "t0", "t1") == [120, 120]
        again = applier_of(writer)
        applied(again, payment(0, 0))
        assert again.watermark.at_ns == (BASE_S + 94) * S
