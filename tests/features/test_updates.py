"""Events in any order, in any batches, again: states that windows read as the read rule has it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from read_rule import Happened
from stream_samples import BASE_NS, COLUMNS, DAY_S, S, Store, horizon_ns, payments, random_events, view_of

from tailrace.batch import Degraded, Provenance
from tailrace.features.aggregates import count, distinct, sum_
from tailrace.features.states import EVENTS_MAX
from tailrace.features.updates import Fate

PLAIN = {column: declared for column, (declared, asked) in COLUMNS.items() if asked.kind != "distinct"}
VIEWS = {
    (lateness, text, plain): view_of(payments(lateness, text=text), **(PLAIN if plain else {}))
    for lateness in ("365d", "10m")
    for text in (False, True)
    for plain in (False, True)
}
"""With a ledger and without: the compiled kernel, where there is one, reads the states without."""
DELAY_NS = 30 * S


def pushed(store: Store, events: list[Happened], random: np.random.Generator) -> list[Fate]:
    """Push events in batches of any size, among them some empty ones; return their fates."""
    cuts = sorted(random.integers(0, len(events) + 1, random.integers(1, 8)).tolist())
    return [
        fate
        for begin, end in zip([0, *cuts], [*cuts, len(events)], strict=True)
        for fate in store.push(*events[begin:end])
    ]


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    spacing_s=st.sampled_from([0.0, 0.3, 40.0, 3_600.0, 4.0 * DAY_S]),
    begin_ns=st.sampled_from([BASE_NS, 0, -20 * DAY_S * S, -2_000_000_000 * S, 4_200_000_000 * S]),
    text=st.booleans(),
    plain=st.booleans(),
)
def test_events_in_any_order_twice_give_what_the_read_rule_says(
    seed: int, spacing_s: float, begin_ns: int, text: bool, plain: bool
) -> None:
    """Each event is counted once, whenever and in whatever batch it comes, and each window has its events."""
    random = np.random.default_rng(seed)
    events = random_events(seed, 40, spacing_s, begin_ns=begin_ns, text=text)
    again = [*events, *events]
    store = Store(VIEWS["365d", text, plain])
    fates = pushed(store, [again[place] for place in random.permutation(80)], random)
    assert sorted(fates) == [Fate.COUNTED] * 40 + [Fate.DUPLICATE] * 40
    later = [Happened(events[-1].at_ns + int(step * S), None, events[-1].entity, 5, "b") for step in (0, 1, 2e3, 3e6)]
    fresh = [Happened(each.at_ns, "q" if text else 7, each.entity, each.cents, each.channel) for each in later]
    store.check(events, *random.permutation(np.array(events, object))[:8].tolist(), *fresh)


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    spacing_s=st.sampled_from([1.0, 15.0, 90.0, 3_600.0, 3.0 * DAY_S, 40.0 * DAY_S]),
    begin_ns=st.sampled_from([BASE_NS, -100 * DAY_S * S, -2_000_000_000 * S]),
    text=st.booleans(),
    plain=st.booleans(),
)
def test_tiles_give_what_the_events_gave(seed: int, spacing_s: float, begin_ns: int, text: bool, plain: bool) -> None:
    """Events shuffled within the lateness go into tiles bit by bit; what is asked for then is as by the read rule."""
    random = np.random.default_rng(seed)
    events = random_events(seed, 48, spacing_s, begin_ns=begin_ns, text=text)
    arrivals = [each.at_ns + int(random.integers(0, 590 * S)) for each in events]
    order = np.argsort(arrivals)
    store, come = Store(VIEWS["10m", text, plain]), list[Happened]()
    for begin in range(0, 48, 8):
        part = [events[place] for place in order[begin : begin + 8].tolist()]
        for event in part:  # one at a time: no jump of the watermark makes another late
            assert store.push(event, event) == [Fate.COUNTED, Fate.DUPLICATE]
        come += part
        oldest_ns = max(horizon_ns(store) + DELAY_NS, begin_ns - DAY_S * S)
        asked = [each for each in come if each.at_ns >= oldest_ns][-3:]
        for step in (0, 1, 300, 9_999, 7 * DAY_S, 400 * DAY_S):
            chosen = come[int(random.integers(len(come)))]
            at_ns = oldest_ns + step * S + int(random.integers(0, 10**6)) * 1_000
            asked.append(Happened(at_ns, chosen.event_id, chosen.entity, chosen.cents, chosen.channel))
        assert not np.isin(store.ask(*asked).provenance, [Provenance.STALE, Provenance.TIMEOUT]).any()
        store.check(come, *asked)


def test_event_older_than_the_lateness_is_late() -> None:
    """It is refused, said to be, and counted nowhere; one that is just within it counts."""
    store = Store(view_of(payments("10m"), n=count(window="lifetime")))
    events = [Happened(BASE_NS + second * S, second, 1, 100, "a") for second in (1_000, 1_001, 1_002)]
    store.push(*events)
    fates = store.push(Happened(BASE_NS + 400 * S - 1_000, 1, 1, 1, ""), Happened(BASE_NS + 400 * S, 2, 1, 1, ""))
    assert fates == [Fate.LATE, Fate.COUNTED]
    assert store.ask(Happened(BASE_NS + 1_003 * S, 9, 1, 0, "")).column("n").tolist() == [4]


def test_event_that_is_in_a_tile_is_not_counted_again() -> None:
    """When it comes again after its id is gone, it is late."""
    store = Store(view_of(payments("10m"), n=count(window="lifetime")))
    first = Happened(BASE_NS, 1, 1, 100, "a")
    assert store.push(first, first) == [Fate.COUNTED, Fate.DUPLICATE]
    store.push(*(Happened(BASE_NS + second * S, second, 1, 100, "a") for second in (1_000, 1_001, 1_002)))
    assert store.push(first) == [Fate.LATE]
    assert store.ask(Happened(BASE_NS + 1_003 * S, 9, 1, 0, "")).column("n").tolist() == [4]


def test_request_before_the_horizon_is_said_to_be_stale() -> None:
    """Its windows end within tiles, so that they cannot be exact; with a delay the window's own end decides."""
    plain = Store(view_of(payments("10m"), n=count(window="1h")))
    delayed = Store(view_of(payments("10m"), n=count(window="1h"), m=count(window="1h", delay="5m")))
    for store in (plain, delayed):
        store.push(*(Happened(BASE_NS + second * S, second, 1, 100, "a") for second in range(0, 2_000, 10)))
        store.push(Happened(BASE_NS + 1_900 * S, 10**6, 1, 100, "a"))  # what moves the horizon is the next batch
        assert horizon_ns(store) == BASE_NS + (1_970 - 600) * S
    for at_s, states in (
        (1_369, (True, True)),
        (1_370, (False, True)),
        (1_669, (False, True)),
        (1_670, (False, False)),
    ):
        for store, is_stale in zip((plain, delayed), states, strict=True):
            rows = store.ask(Happened(BASE_NS + at_s * S, 9, 1, 0, ""))
            assert rows.provenance.tolist() == [Provenance.STALE if is_stale else Provenance.FRESH]
            assert (rows.degraded is None) != is_stale
            assert rows.degraded is None or rows.degraded.tolist() == [Degraded.STALE_FEATURES]


def crowd(count_: int, spacing_ns: int) -> list[Happened]:
    """Return events of one entity, close to each other."""
    return [Happened(BASE_NS + number * spacing_ns, number, 1, 100, f"{number % 50}") for number in range(count_)]


@pytest.mark.parametrize("parts", [1, 7])
def test_crowd_of_events_is_bounded(parts: int) -> None:
    """The oldest over `EVENTS_MAX` go into tiles early; all are counted, and one that comes among them is late."""
    columns = {"n": count(window="1h"), "spent": sum_("amount", window="1h", decimals=2)}
    store = Store(view_of(payments("1d"), **columns, kinds=distinct("channel", window="1h")))
    events = crowd(EVENTS_MAX + 1_000, S // 10)
    size = -(-len(events) // parts)
    for begin in range(0, len(events), size):
        assert set(store.push(*events[begin : begin + size])) == {Fate.COUNTED}
    (stored,) = (value for key, value in store.rows.items() if key.startswith(b"{customer"))
    states = store.codec.states.unpack([1], [stored])
    assert EVENTS_MAX - 10 < len(states.events) <= EVENTS_MAX
    assert len(states.tiles) < 120
    rows = store.ask(Happened(events[-1].at_ns + S, 0, 1, 0, ""))
    assert rows.column("n").tolist() == [len(events)]
    assert rows.column("spent").tolist() == [float(len(events))]
    assert rows.column("kinds").tolist() == [50]
    late = Happened(BASE_NS + 3 * S + 1_000, 10**6, 1, 1, "")
    assert store.push(late, Happened(events[-1].at_ns, 10**6, 1, 1, "")) == [Fate.LATE, Fate.COUNTED]


def test_crowd_within_one_second_is_bounded() -> None:
    """Where more than `EVENTS_MAX` events have one second, it is closed: they are counted, and what is more is late."""
    store = Store(view_of(payments("1d"), n=count(window="1h")))
    events = crowd(EVENTS_MAX + 1, 1_000)
    assert set(store.push(*events)) == {Fate.COUNTED}
    (stored,) = (value for key, value in store.rows.items() if key.startswith(b"{customer"))
    assert len(stored) < 200
    assert store.ask(Happened(BASE_NS + 2 * S, 0, 1, 0, "")).column("n").tolist() == [EVENTS_MAX + 1]
    assert store.push(Happened(BASE_NS + 9_000_000, 10**6, 1, 1, "")) == [Fate.LATE]
    assert store.push(Happened(BASE_NS + S, 10**6, 1, 1, "")) == [Fate.COUNTED]
