"""The watch over pipelines: what is new, what is gone, clocks, and what it takes."""

from __future__ import annotations

import itertools
import time
import tracemalloc

import pytest

from monitor.alerts.counted_pipeline import Counted, names
from tailrace.alerting import Alerts
from tailrace.deadline import NS_PER_S
from tailrace.monitor.alerts.watch import AlertWatch
from tailrace.monitor.merged import MergedMetrics
from tailrace.monitor.merging import merge_blocks
from tailrace.monitor.window import Window


def test_what_was_counted_before_the_first_look_is_no_news() -> None:
    """A watch that begins beside a server with a long past tells nothing of that past."""
    counted = Counted()
    counted.answer(good=0, bad=10_000)
    watch = AlertWatch()
    for second in range(100):
        metrics = merge_blocks([counted.block], at_ns=(5_000 + second) * NS_PER_S)
        assert not watch.look(metrics, {})


def test_worker_that_begins_anew_is_no_error() -> None:
    """Counters that fall, since a worker began again, count from where they are."""
    counted = Counted()
    counted.run(60, good=1_000, bad=0)
    cells = counted.block.find("tailrace_requests_total", "fraud", "503", "").offset
    counted.block.cells[cells] = 400
    counted.look()  # as much had come
    counted.block.cells[cells] = 300
    assert "burn_fast" not in dict(names(counted.run(2, good=1_000)))


def test_clock_on_the_wall_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that jumps years back and forth is not asked: the time is that of what was counted."""
    counted = Counted()
    clock = itertools.cycle([0.0, 4e9, -1e9])
    monkeypatch.setattr(time, "time", lambda: next(clock))
    monkeypatch.setattr(time, "time_ns", lambda: int(next(clock)))
    counted.run(40, good=50, bad=50)
    [errors] = [alert for alert in counted.watch.active() if alert.alert == "errors"]
    assert errors.state == "firing"
    assert 5 <= errors.since_s <= 40


def test_time_that_does_not_go_on_counts_into_the_newest_slot() -> None:
    """A monotonic clock that stands still or steps back loses nothing and empties nothing."""
    window = Window(60, 1)
    window.add(100 * NS_PER_S, 1)  # type: ignore[arg-type]
    window.add(90 * NS_PER_S, 2)  # type: ignore[arg-type]
    assert window.sums(100 * NS_PER_S).tolist() == [3]
    assert window.sums(159 * NS_PER_S).tolist() == [3]
    assert window.sums(160 * NS_PER_S).tolist() == [0]
    assert window.sums(10_000 * NS_PER_S).tolist() == [0]


def test_pipeline_that_is_gone_has_no_alerts_left() -> None:
    """Alerts of a pipeline that is served no more, or wants none any more, are over and forgotten."""
    counted = Counted()
    counted.add("tailrace_store_breaker_open")
    counted.run(10)
    assert names(counted.watch.active()) == [("breaker", "firing")]
    counted.declared = {"fraud": None}
    assert names(counted.look()) == [("breaker", "resolved")]
    assert not counted.watch.active()
    counted.declared = {"fraud": Alerts()}
    assert names(counted.run(10)) == [("breaker", "firing")]
    over = counted.watch.look(MergedMetrics({}, int(counted.at_s + 1) * NS_PER_S), {})
    assert names(over) == [("breaker", "resolved")]


def test_alert_is_pending_before_it_fires() -> None:
    """What holds, and not yet long enough, is shown as pending and told nobody; if it ends by then, it was nothing."""
    counted = Counted()
    counted.add("tailrace_store_breaker_open")
    assert not counted.run(3)
    assert names(counted.watch.active()) == [("breaker", "pending")]
    counted.add("tailrace_store_breaker_open", count=-1)
    assert not counted.run(1)
    assert not counted.watch.active()


def test_watch_takes_the_same_memory_after_days() -> None:
    """Its windows have their slots from the first day; a look takes a small part of a second."""
    counted = Counted()
    tracemalloc.start()
    counted.run(200, good=10)
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(100):
        counted.at_s += 1_000
        counted.run(1, good=10)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 100_000
    started_s = time.thread_time()
    for _ in range(20):
        counted.run(1, good=10)
    assert (time.thread_time() - started_s) / 20 < 0.05
