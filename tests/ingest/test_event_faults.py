"""What befalls events: clocks that jump, stores that are full, one entity with half of all, one that is poison."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from features.redis_server import RedisServer
from tailrace.errors import StoreError
from tailrace.features.aggregates import count, sum_
from tailrace.features.stores.lmdb_writer import LmdbWriter
from tailrace.features.stores.memory import MemoryWriter
from tailrace.features.stores.opening import open_writer
from tailrace.features.stores.protocol import StoreWriter
from tailrace.features.streams import Stream, StreamFeatureView
from tailrace.features.updates import Fate
from tailrace.features.view_spec import Entity
from tailrace.ingest.applier import Applier
from tailrace.ingest.counting import StreamCounter
from tailrace.ingest.decoded import DecodedEvents
from tailrace.ingest.frames import stream_route
from tailrace.ingest.intake import EventIntake, Route, Waiting
from tailrace.request.schema import Request
from tailrace.testing import ManualClock

S = 10**9
HOUR_S = 3_600
BASE_S = 1_533_081_600
HOT = 7


class Payment(Request):
    payment_id: int
    customer_id: int
    amount: float
    time: float


payments = Stream("payments", schema=Payment, time="time", id="payment_id")


class CustomerActivity(StreamFeatureView):
    entity = Entity("customer", key="customer_id")
    stream = payments
    n: int = count(window="lifetime")
    spent: float = sum_("amount", window="lifetime", decimals=2)


class SetClock(ManualClock):
    """A clock whose wall time is set by hand, in seconds after the first event."""

    at_s: float = 0.0

    def wall_ns(self) -> int:
        """Return nanoseconds since the epoch."""
        return int((BASE_S + self.at_s) * S)


def payment(number: int, customer: int = HOT, *, at_s: float | None = None) -> Payment:
    """Return an event of ten cents, a second after the one before."""
    time = BASE_S + (number if at_s is None else at_s)
    return Payment(payment_id=number, customer_id=customer, amount=0.1, time=time)


def applier_of(writer: StoreWriter, clock: ManualClock | None = None) -> Applier:
    """Return an applier of the payments."""
    return Applier(payments, [CustomerActivity.spec], writer, clock or ManualClock())


def applied(applier: Applier, events: Sequence[Payment]) -> list[Fate]:
    """Count events in; return what became of each."""
    return list(map(Fate, applier.apply(DecodedEvents(payments).columns(events)).tolist()))


def totals(writer: StoreWriter, *customers: int, column: str = "n") -> list[Any]:
    """Return a column of some customers, as of long after the last event."""
    codec = CustomerActivity.spec.codec()
    rows = [writer.get(key) for key in codec.keys(customers)]
    found: list[Any] = codec.unpack(list(customers), rows, (BASE_S + 10**7) * S).column(column).tolist()
    return found


@pytest.fixture(params=["lmdb", "redis"])
def writer(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StoreWriter]:
    """Yield a writer of an empty store of each kind."""
    url = f"lmdb:{tmp_path / 'store'}"
    if request.param == "redis":
        url = request.getfixturevalue("redis_server").url
    with closing(open_writer(url)) as writer:
        yield writer


def test_clock_an_hour_behind_refuses_what_is_ahead_of_it_and_counts_it_later() -> None:
    """Events of now are told to be of the future and move no watermark; set right, it counts each of them once."""
    clock, writer = SetClock(), MemoryWriter({})
    applier = applier_of(writer, clock)
    clock.at_s = 10
    assert set(applied(applier, [payment(number) for number in range(10)])) == {Fate.COUNTED}
    known_ns = applier.watermark.at_ns
    clock.at_s = 20 - HOUR_S
    later = [payment(number) for number in range(10, 20)]
    assert set(applied(applier, later)) == {Fate.FUTURE}
    assert applier.watermark.at_ns == known_ns
    clock.at_s = 20
    assert [set(applied(applier, later)) for _ in "ab"] == [{Fate.COUNTED}, {Fate.DUPLICATE}]
    assert totals(writer, HOT) == [20]


def test_clock_an_hour_ahead_changes_nothing_of_events_that_are_right() -> None:
    """The watermark is the events' own: nothing becomes late, nor does anything when the clock is set back."""
    clock, writer = SetClock(), MemoryWriter({})
    applier = applier_of(writer, clock)
    for begin, off_s in ((0, 0), (10, HOUR_S), (20, 0)):
        clock.at_s = begin + 10 + off_s
        assert set(applied(applier, [payment(number) for number in range(begin, begin + 10)])) == {Fate.COUNTED}
        assert applier.watermark.at_ns <= (BASE_S + begin + 10) * S
    assert applied(applier, [payment(30, at_s=0)]) == [Fate.COUNTED]
    assert totals(writer, HOT) == [31]


def test_entity_with_half_of_all_events_is_exact_beside_the_others(writer: StoreWriter) -> None:
    """In batches that are half its own, each sent twice, with events within the lateness of each other."""
    applier = applier_of(writer)
    events = [payment(number, HOT if number % 2 else 100 + number % 50, at_s=number / 10) for number in range(4_000)]
    for begin in range(0, len(events), 500):
        fates = [applied(applier, events[begin : begin + 500]) for _ in "ab"]
        assert list(map(set, fates)) == [{Fate.COUNTED}, {Fate.DUPLICATE}]
    others = range(100, 150, 2)
    assert totals(writer, HOT, *others) == [2_000, *[80] * len(others)]
    assert totals(writer, HOT, column="spent") == [200.0]


def test_map_that_is_full_grows_while_events_are_counted(tmp_path: Path) -> None:
    """A batch that does not fit is begun anew in a larger map: nothing is lost, and nothing counted twice."""
    with closing(LmdbWriter(tmp_path / "store", map_bytes=1 << 16)) as writer:
        applier = applier_of(writer)
        for begin in range(0, 4_000, 1_000):
            events = [payment(number, number % 1_000) for number in range(begin, begin + 1_000)]
            assert set(applied(applier, events)) == {Fate.COUNTED}
        assert totals(writer, *range(1_000)) == [4] * 1_000
        assert (tmp_path / "store" / "data.mdb").stat().st_size > 1 << 16


def test_redis_that_is_full_counts_nothing_and_counts_it_once_with_room(redis_server: RedisServer) -> None:
    """Whoever sends is told that nothing is counted, and sends it again."""
    with closing(open_writer(redis_server.url)) as writer:
        applier = applier_of(writer)
        events = [payment(number) for number in range(20)]
        assert set(applied(applier, events[:10])) == {Fate.COUNTED}
        redis_server.ask("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(StoreError, match=r"OOM|maxmemory"):
            applied(applier, events)
        redis_server.ask("CONFIG", "SET", "maxmemory", "0")
        assert totals(writer, HOT) == [10]
        assert applied(applier, events) == [Fate.DUPLICATE] * 10 + [Fate.COUNTED] * 10
        assert totals(writer, HOT) == [20]


def test_redis_that_lost_its_data_counts_on_from_nothing(redis_server: RedisServer) -> None:
    """What is gone is gone; what comes then is counted, and no old watermark refuses it."""
    with closing(open_writer(redis_server.url)) as writer:
        applier = applier_of(writer)
        applied(applier, [payment(number) for number in range(10)])
        redis_server.ask("FLUSHALL")
        assert set(applied(applier, [payment(number) for number in range(5, 15)])) == {Fate.COUNTED}
        assert totals(writer, HOT) == [10]


def test_event_that_raises_when_it_is_counted_takes_no_call_along() -> None:
    """Of calls that are counted together only the poisoned one, whose id no column holds, is told that it is not."""
    writer = MemoryWriter({})
    applier = applier_of(writer)
    decode = msgspec.msgpack.Decoder(list[Payment]).decode
    answers: dict[str, tuple[bytes | None, str]] = {}

    def sent(name: str, *events: Payment) -> Waiting:
        encoded = msgspec.Raw(msgspec.msgpack.encode(events))
        return Waiting(stream_route("payments"), encoded, lambda fates, why: answers.update({name: (fates, why)}))

    async def scenario() -> None:
        intake = EventIntake({stream_route("payments"): Route(decode, (StreamCounter(applier.stream, [applier]),))})
        intake.take(sent("well", payment(1), payment(2)))
        intake.take(sent("poisoned", payment(3, customer=1 << 63)))
        intake.take(sent("behind", payment(4)))
        counting = asyncio.create_task(intake.run())
        await asyncio.wait_for(intake.drain(), 20)
        counting.cancel()
        intake.close()

    asyncio.run(scenario())
    assert answers["well"] == (bytes([Fate.COUNTED] * 2), "")
    assert answers["behind"] == (bytes([Fate.COUNTED]), "")
    assert answers["poisoned"][0] is None
    assert "OverflowError" in answers["poisoned"][1]
    assert totals(writer, HOT) == [3]
