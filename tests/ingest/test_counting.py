"""Each event is counted once, whatever brings it, in every store of its stream; one that is poison is found alone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import tailrace as tr
from tailrace.errors import StoreError
from tailrace.features.stores.memory import MemoryWriter
from tailrace.features.stores.protocol import Changes, StoreWriter
from tailrace.features.streams import StreamFeatureView, StreamViewSpec
from tailrace.features.updates import Fate
from tailrace.ingest.applier import Applier
from tailrace.ingest.counting import EVENT_FAULTS, StreamCounter, count_apart
from tailrace.ingest.intake import EventIntake, Route, Waiting
from tailrace.testing import ManualClock

BEGIN_S = 1_750_000_000


class Payment(tr.Request):
    """An event of the view below."""

    payment_id: int
    customer_id: int
    time: float


payments = tr.Stream("payments", schema=Payment, time="time", id="payment_id", lateness="1m")


class Activity(StreamFeatureView):
    """A view that several stores have."""

    entity = tr.Entity("customer", key="customer_id")
    stream = payments
    count: int = tr.count(window="1h")


SPEC: StreamViewSpec = Activity.spec


def payment(number: int, customer: int = 7) -> Payment:
    """Return a payment; each is a second after the one before."""
    return Payment(payment_id=number, customer_id=customer, time=BEGIN_S + number)


def applier_of(writer: StoreWriter) -> Applier:
    """Return what counts the payments in one store."""
    return Applier(payments, [SPEC], writer, ManualClock(wall_ns=(BEGIN_S + 3_600) * 10**9))


class Away(MemoryWriter):
    """A store that raises once, when it is to be changed."""

    def __init__(self, error: Exception) -> None:
        super().__init__({})
        self._errors = [error]

    def update(self, changes: Changes, notes: Sequence[tuple[bytes, bytes]] = ()) -> None:
        """Raise, or change."""
        if self._errors:
            raise self._errors.pop()
        super().update(changes, notes)


def test_event_has_one_fate_over_all_stores() -> None:
    """Counted where one store counts it, though another has it already; refused where one refuses it."""
    one, other = MemoryWriter({}), MemoryWriter({})
    only_one, only_other = (StreamCounter(payments, [applier_of(each)]) for each in (one, other))
    assert only_one.count_decoded([payment(1)]).tolist() == [Fate.COUNTED]
    assert only_other.count_decoded([payment(number) for number in (200, 201, 202)]).tolist() == [Fate.COUNTED] * 3
    both = StreamCounter(payments, [applier_of(one), applier_of(other)])
    found = both.count_decoded([payment(1), payment(202), payment(203), payment(203)])
    assert found.tolist() == [Fate.LATE, Fate.COUNTED, Fate.COUNTED, Fate.DUPLICATE]
    assert both.count_decoded([]).tolist() == []


def test_event_that_comes_again_since_one_store_was_away_is_counted() -> None:
    """Not told to be there already: it was not, in that store."""
    counter = StreamCounter(payments, [applier_of(MemoryWriter({})), applier_of(Away(StoreError("away")))])
    with pytest.raises(StoreError):
        counter.count_decoded([payment(1)])
    assert counter.count_decoded([payment(1)]).tolist() == [Fate.COUNTED]
    assert counter.count_decoded([payment(1)]).tolist() == [Fate.DUPLICATE]


@pytest.mark.parametrize("error", [ValueError("on what an event holds"), StoreError("away"), RuntimeError("ours")])
def test_intake_records_each_event_once_however_many_stores_have_its_stream(error: Exception) -> None:
    """Also where one of them raised, and the events were counted again; what nobody counted is recorded nowhere."""
    counter = StreamCounter(payments, [applier_of(MemoryWriter({})), applier_of(Away(error))])
    recorded: list[tuple[str, list[int]]] = []
    answers: dict[int, tuple[bytes | None, str]] = {}

    async def scenario() -> None:
        decode = msgspec.msgpack.Decoder(list[Payment]).decode
        intake = EventIntake(
            {"payments": Route(decode, (counter,))}, lambda stream, fates: recorded.append((stream, fates.tolist()))
        )
        for number in (1, 2):
            encoded = msgspec.Raw(msgspec.msgpack.encode([payment(number)]))
            intake.take(Waiting("payments", encoded, lambda fates, why, at=number: answers.update({at: (fates, why)})))
        counting = asyncio.create_task(intake.run())
        await asyncio.wait_for(intake.drain(), 20)
        counting.cancel()
        intake.close()

    asyncio.run(scenario())
    if isinstance(error, ValueError):
        assert answers == {1: (bytes([Fate.COUNTED]), ""), 2: (bytes([Fate.COUNTED]), "")}
        assert recorded == [("payments", [Fate.COUNTED])] * 2
    else:
        assert [fates for fates, _ in answers.values()] == [None, None]
        assert all(str(error) in why for _, why in answers.values())
        assert recorded == []


class Visit(tr.Request):
    """An event of two streams, which see its time in a field each."""

    payment_id: int
    customer_id: int
    time: float
    told: str


paid = tr.Stream("paid", schema=Visit, time="time", id="payment_id", lateness="1m")
told = tr.Stream("told", schema=Visit, time="told", id="payment_id", lateness="1m")


class Paid(StreamFeatureView):
    """A view of the one stream."""

    entity = tr.Entity("customer", key="customer_id")
    stream = paid
    count: int = tr.count(window="1h")


class Told(StreamFeatureView):
    """A view of the other stream."""

    entity = tr.Entity("customer", key="customer_id")
    stream = told
    count: int = tr.count(window="1h")


@pytest.mark.parametrize("poison", [None, 0, 1, 3])
def test_intake_counts_events_of_two_streams_once_in_each(poison: int | None) -> None:
    """Though one of them is poison in one stream: in the other none is counted again, and told to be there already."""
    writer, clock = MemoryWriter({}), ManualClock(wall_ns=(BEGIN_S + 3_600) * 10**9)
    counters = tuple(
        StreamCounter(spec.stream, [Applier(spec.stream, [spec], writer, clock)]) for spec in (Paid.spec, Told.spec)
    )
    recorded: dict[str, list[int]] = {"paid": [], "told": []}
    answers: dict[int, tuple[bytes | None, str]] = {}

    def sent(number: int) -> Waiting:
        times = [f"{BEGIN_S + number}", "no time" if number == poison else f"{BEGIN_S + number}"]
        visits = [Visit(payment_id=10 * number + at, customer_id=7, time=BEGIN_S + number, told=each)
                  for at, each in enumerate(times)]  # fmt: skip
        encoded = msgspec.Raw(msgspec.msgpack.encode(visits))
        return Waiting("visits", encoded, lambda fates, why: answers.update({number: (fates, why)}))

    async def scenario() -> None:
        decode = msgspec.msgpack.Decoder(list[Visit]).decode
        intake = EventIntake(
            {"visits": Route(decode, counters)}, lambda stream, fates: recorded[stream].extend(fates.tolist())
        )
        for number in range(4):
            intake.take(sent(number))
        empty = msgspec.Raw(msgspec.msgpack.encode([]))
        intake.take(Waiting("visits", empty, lambda fates, why: answers.update({4: (fates, why)})))
        counting = asyncio.create_task(intake.run())
        await asyncio.wait_for(intake.drain(), 20)
        counting.cancel()
        intake.close()

    asyncio.run(scenario())
    well = {number: (bytes([Fate.COUNTED] * 2), "") for number in range(4) if number != poison}
    refused = {} if poison is None else {poison: (None, "ValueError: could not convert string to float: 'no time'")}
    assert answers == {**well, **refused, 4: (b"", "")}
    assert recorded == {"paid": [Fate.COUNTED] * 8, "told": [Fate.COUNTED] * 2 * len(well)}


@given(st.lists(st.sampled_from(["good", *(each.__name__ for each in EVENT_FAULTS)]), max_size=40))
def test_poison_is_found_alone_and_takes_nothing_along(kinds: list[str]) -> None:
    """In order, each unit in one part; the fault of each poison is its own."""
    faults = {each.__name__: each for each in EVENT_FAULTS}

    def count(units: Sequence[tuple[int, str]]) -> NDArray[np.uint8]:
        for number, kind in units:
            if kind in faults:
                raise faults[kind](number)
        return np.array([number for number, _ in units], np.uint8)

    units = list(enumerate(kinds))
    found = count_apart(units, count)
    assert [unit for part, _ in found for unit in part] == units
    for part, outcome in found:
        if isinstance(outcome, Exception):
            ((number, kind),) = part
            assert (type(outcome).__name__, outcome.args) == (kind, (number,))
        else:
            assert outcome.tolist() == [number for number, _ in part]
            assert {kind for _, kind in part} == {"good"}


def test_fault_of_the_store_is_no_poison() -> None:
    """It is raised at once: the events come again."""

    def count(units: Sequence[int]) -> NDArray[np.uint8]:
        raise StoreError("away")

    with pytest.raises(StoreError):
        count_apart([1, 2], count)
