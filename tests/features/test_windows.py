"""Windows: where they begin, what tiles leave of events, and who counts the event that is scored."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from read_rule import Happened
from stream_samples import BASE_NS, DAY_S, S, Store, payments, random_events, view_of

from tailrace.features.aggregates import count, distinct, last, since_last, sum_
from tailrace.features.windows import Entries, Window


@pytest.mark.parametrize(
    ("length_s", "hop_s"),
    [(1, 1), (59, 1), (60, 1), (61, 2), (300, 5), (3_600, 60), (DAY_S, 1_440), (365 * DAY_S, 525_600)],
)
def test_window_has_a_hop_of_a_sixtieth(length_s: int, hop_s: int) -> None:
    """In whole seconds, at least one."""
    assert Window(length_s * S).hop_ns == hop_s * S


def test_window_begins_at_a_multiple_of_its_hop() -> None:
    """Floored, before 1970 too; with a delay as for the time before; a lifetime has no beginning."""
    now_ns = np.array([1_000 * S + 5, -1_000 * S - 5, 0])
    assert Window(300 * S).begin(now_ns).tolist() == [700 * S, -1_305 * S, -300 * S]
    assert Window(300 * S, 2 * S).begin(now_ns).tolist() == [695 * S, -1_305 * S, -305 * S]
    assert (Window(None, 7 * S).begin(now_ns) == np.iinfo(np.int64).min).all()


def entries_of(store: Store, events: list[Happened]) -> Entries:
    """Return events of one entity as entries."""
    columns = store.events(events)
    bounds = np.array([0, len(events)])
    return Entries(bounds[:1], bounds[1:], columns.times, columns.ids, store.view.spec.windows.prepare(columns))


def test_tiles_are_as_wide_as_the_shortest_hop_that_still_begins_within_them() -> None:
    """An hour of events, one a second: by 5 s where the short window may begin, else by 60 s."""
    store = Store(view_of(payments("10m"), n=count(window="5m"), more=count(window="1h")))
    events = [Happened(BASE_NS + second * S, second, 1, 100, "a") for second in range(3_600)]
    horizon_ns = BASE_NS + 3_600 * S
    sealed = store.view.spec.windows.seal(entries_of(store, events), np.array([horizon_ns]))
    counts = sealed.lanes[0][0].tolist()
    assert counts == [60] * 55 + [5] * 60
    assert (np.diff(sealed.at) > 0).all()


def test_entries_that_no_window_reaches_are_dropped() -> None:
    """What is older than the longest window goes; a lifetime keeps it, in one tile."""
    events = [Happened(BASE_NS + hour * 3_600 * S, hour, 1, 100, "a") for hour in range(48)]
    horizon_ns = np.array([BASE_NS + 48 * 3_600 * S])
    store = Store(view_of(payments("10m"), n=count(window="5m")))
    assert len(store.view.spec.windows.seal(entries_of(store, events), horizon_ns)) == 0
    store = Store(view_of(payments("10m"), n=count(window="lifetime")))
    sealed = store.view.spec.windows.seal(entries_of(store, events), horizon_ns)
    assert [lane[0].tolist() for lane in sealed.lanes] == [[48]]


def test_entry_at_which_the_oldest_window_begins_is_kept() -> None:
    """A window has the events from its beginning on: that of the beginning itself, and not one a microsecond older."""
    store = Store(view_of(payments("10m"), n=count(window="5m")))
    horizon_ns = np.array([BASE_NS + 300 * S])
    for at_ns, kept in ((BASE_NS, 1), (BASE_NS - 1_000, 0)):
        sealed = store.view.spec.windows.seal(entries_of(store, [Happened(at_ns, 1, 1, 100, "a")]), horizon_ns)
        assert len(sealed) == kept


@pytest.mark.parametrize("seed", range(6))
def test_sealing_early_late_or_twice_gives_the_same(seed: int) -> None:
    """Tiles that were sealed again and again are those that are sealed once, and windows have the same values."""
    store = Store(view_of(payments("10m")))
    windows = store.view.spec.windows
    events = random_events(seed, 200, (1.0, 60.0, 3_600.0)[seed % 3], entities=1)
    end_ns = events[-1].at_ns + S
    entries = entries_of(store, events)
    once = windows.seal(entries, np.array([end_ns]))
    again = entries
    for share in (0.2, 0.5, 0.5, 0.9, 1.0):
        again = windows.seal(again, np.array([BASE_NS + int((end_ns - BASE_NS) * share)]))
    assert once.at.tolist() == again.at.tolist()
    for one, other in zip(once.lanes, again.lanes, strict=True):
        for column, same in zip(one, other, strict=True):
            np.testing.assert_allclose(column, same, rtol=1e-9, atol=1e-6)


def test_event_that_is_scored_counts_itself_only_where_it_is_said() -> None:
    """Whether it is in the state already or not."""
    declared: dict[str, Any] = {
        "without": count(window="1h"),
        "with_it": count(window="1h", include_current=True),
        "spent": sum_("amount", window="1h", include_current=True, decimals=2),
        "channels": distinct("channel", window="1h", include_current=True),
        "latest": last("amount", window="1h", include_current=True),
    }
    store = Store(view_of(payments("10m"), **declared))
    first = Happened(BASE_NS, 1, 7, 150, "a")
    scored = Happened(BASE_NS + 60 * S, 2, 7, 250, "b")
    store.push(first)
    for _ in range(2):
        values = {name: store.ask(scored).column(name).tolist() for name in declared}
        assert values == {
            "without": [1], "with_it": [2], "spent": [4.0], "channels": [2], "latest": [2.5],
        }  # fmt: skip
        store.push(scored)


def test_events_of_one_time_are_in_the_order_of_their_ids() -> None:
    """Those with a smaller id come before, those with a greater one do not."""
    store = Store(view_of(payments("10m"), n=count(window="1m"), latest=last("amount", window="1m")))
    store.push(*(Happened(BASE_NS, number, 1, number * 100, "a") for number in (5, 3, 9)))
    asked = [Happened(BASE_NS, number, 1, 0, "a") for number in (2, 3, 4, 5, 9, 10)]
    rows = store.ask(*asked)
    assert rows.column("n").tolist() == [0, 0, 1, 1, 2, 3]
    assert rows.column("latest").tolist() == [0.0, 0.0, 3.0, 3.0, 5.0, 9.0]


def test_window_decays_without_an_event() -> None:
    """What is asked for later counts less, from the same state; unknown entities have the defaults."""
    store = Store(
        view_of(payments("10m"), n=count(window="5m"), since=since_last(), day=count(window="1d", default=-1))
    )
    store.push(Happened(BASE_NS, 1, 1, 100, "a"), Happened(BASE_NS + 200 * S, 2, 1, 100, "a"))
    times = (0, 1, 201, 304, 305, 504, 505, 90_000)
    rows = store.ask(*(Happened(BASE_NS + second * S, 9, 1, 0, "") for second in times))
    assert rows.column("n").tolist() == [1, 1, 2, 2, 1, 1, 0, 0]
    assert rows.column("since").tolist() == [0.0, 1.0, 1.0, 104.0, 105.0, 304.0, 305.0, 89_800.0]
    assert rows.column("day").tolist() == [1, 1, 2, 2, 2, 2, 2, -1]
    unknown = store.ask(Happened(BASE_NS, 1, 2, 0, ""))
    assert [unknown.column(name).tolist() for name in ("n", "since", "day")] == [[0], [-1.0], [-1]]
