"""A report's figures, from records whose times are chosen."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from tailrace.deadline import NS_PER_MS, NS_PER_S
from tailrace.loadtest.plan import LoadPlan
from tailrace.loadtest.record import BROKEN, UNREADABLE, ShotRecord, make_record, merge_records
from tailrace.loadtest.report import LoadReport, build_report, summarize
from tailrace.loadtest.table import render_report

START_NS = 5 * NS_PER_S


def make_answered(shots: int, latency_ns: int, lag_ns: int = 0) -> ShotRecord:
    """Return a record of shots 10 ms apart, all sent `lag_ns` late and answered 200 after `latency_ns`."""
    record = make_record(START_NS + np.arange(shots, dtype=np.int64) * 10 * NS_PER_MS)
    record.sent_ns[:] = record.intended_ns + lag_ns
    record.answered_ns[:] = record.intended_ns + latency_ns
    record.statuses[:] = 200
    return record


def report_on(record: ShotRecord, **options: Any) -> LoadReport:
    """Return the report of a record made by `make_answered`."""
    return build_report(LoadPlan("http://h/", duration_s=record.shots / 100, **options), record, START_NS)


@given(values=st.lists(st.integers(0, 10**12), min_size=1, max_size=3_000))
def test_percentiles_are_of_the_nearest_rank(values: list[int]) -> None:
    """At least q of the durations are at or below the q-th percentile, and fewer than q are below it."""
    durations = np.array(values, np.int64)
    summary = summarize(durations)
    assert summary is not None
    marks = ((500, summary.p50_ns), (900, summary.p90_ns), (950, summary.p95_ns), (990, summary.p99_ns))
    for per_mille, value in (*marks, (999, summary.p999_ns), (1_000, summary.max_ns)):
        assert int((durations <= value).sum()) * 1_000 >= per_mille * len(values)
        assert int((durations < value).sum()) * 1_000 < per_mille * len(values)


def test_report_counts_accepted_and_refused_apart() -> None:
    """503 is refused, with a latency of its own; the other statuses and errors are neither."""
    record = make_answered(10, 4 * NS_PER_MS)
    record.statuses[:] = [200, 201, 503, 503, 503, 422, BROKEN, UNREADABLE, 0, 0]
    record.answered_ns[2:5] = record.intended_ns[2:5] + NS_PER_MS
    record.sent_ns[9] = 0
    report = report_on(record)
    assert report.ok is not None
    assert report.refused is not None
    assert (report.ok.count, report.ok.p99_ns) == (2, 4 * NS_PER_MS)
    assert (report.refused.count, report.refused.p99_ns) == (3, NS_PER_MS)
    assert report.statuses == {200: 1, 201: 1, 422: 1, 503: 3}
    assert (report.broken, report.unreadable, report.unanswered, report.unsent, report.errors) == (1, 1, 1, 1, 4)
    assert (report.sent, report.answered) == (9, 6)


def test_report_latency_includes_the_generators_own_lag() -> None:
    """Latency counts from the intended send time, not from the actual one."""
    report = report_on(make_answered(100, 30 * NS_PER_MS, lag_ns=20 * NS_PER_MS))
    assert report.ok is not None
    assert report.ok.p50_ns == 30 * NS_PER_MS


@pytest.mark.parametrize(("lag_ms", "is_valid"), [(2.4, True), (2.6, False)])
def test_report_with_lag_over_a_twentieth_of_the_budget_is_invalid(lag_ms: float, is_valid: bool) -> None:
    """A p99 schedule lag over 5% of the budget makes the run say nothing; it says why."""
    report = report_on(make_answered(200, 9 * NS_PER_MS, lag_ns=int(lag_ms * NS_PER_MS)), budget_ns=50 * NS_PER_MS)
    assert report.valid is is_valid
    assert bool(report.reasons) is not is_valid
    assert all("5% of the budget of 50.0 ms" in reason for reason in report.reasons)


def test_report_does_not_take_held_shots_for_own_lag() -> None:
    """A shot that waited for room on a connection is late by the server's doing; its latency still counts."""
    record = make_answered(100, 9 * NS_PER_MS)
    record.sent_ns[:50] += 8 * NS_PER_MS
    record.held[:50] = 1
    report = report_on(record)
    assert report.valid
    assert report.held == 50
    assert report.lag is not None
    assert report.lag.max_ns == 0


def test_report_goodput_counts_only_answers_within_budget() -> None:
    """An accepted answer that comes late is ok, but not goodput."""
    record = make_answered(100, 10 * NS_PER_MS)
    record.answered_ns[:40] += NS_PER_S
    report = report_on(record, budget_ns=50 * NS_PER_MS)
    assert report.ok_per_s == 100
    assert report.goodput_per_s == 60


def test_timeline_places_each_shot_in_the_second_it_was_due() -> None:
    """Every shot is told once; answers are told in the second in which they came."""
    record = make_answered(250, 5 * NS_PER_MS)
    record.answered_ns[100:150] = START_NS + 2 * NS_PER_S  # due in second 1, answered in second 2
    record.statuses[200:205] = BROKEN
    timeline = report_on(record).timeline
    assert [second.offered for second in timeline] == [100, 100, 50]
    assert [second.answered for second in timeline] == [100, 50, 95]
    assert [second.ok for second in timeline] == [100, 100, 45]
    assert [second.failed for second in timeline] == [0, 0, 5]
    assert timeline[1].ok_p99_ns == 990 * NS_PER_MS


@given(shots=st.integers(1, 50), shards=st.integers(1, 5))
def test_merged_shards_are_in_shot_order(shots: int, shards: int) -> None:
    """Dealing shots out over processes and merging them gives the record back."""
    shots = max(shots, shards)
    whole = make_record(np.arange(shots, dtype=np.int64) + 1, keep_bodies=True)
    whole.statuses[:] = np.arange(shots) + 200
    whole.bodies = [b"%d" % shot for shot in range(shots)]
    dealt = []
    for shard in range(shards):
        part = make_record(whole.intended_ns[shard::shards], keep_bodies=True)
        part.statuses[:] = whole.statuses[shard::shards]
        part.bodies = whole.bodies[shard::shards]
        dealt.append(part)
    merged = merge_records(dealt)
    assert merged.intended_ns.tolist() == whole.intended_ns.tolist()
    assert merged.statuses.tolist() == whole.statuses.tolist()
    assert merged.bodies == whole.bodies


def test_report_as_dict_is_json() -> None:
    """A program reads the same figures."""
    report = report_on(make_answered(100, 7 * NS_PER_MS))
    content = json.loads(json.dumps(report.as_dict()))
    assert content["ok"]["p99_ns"] == 7 * NS_PER_MS
    assert content["statuses"] == {"200": 100}
    assert content["refused"] is None
    assert content["timeline"][0]["offered"] == 100


@pytest.mark.parametrize("lag_ms", [0, 9])
def test_table_tells_percentiles_and_verdict(lag_ms: int) -> None:
    """The printed report names the percentiles, the budget and whether the run counts."""
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(render_report(report_on(make_answered(100, 70 * NS_PER_MS, lag_ns=lag_ms * NS_PER_MS))))
    text = console.export_text()
    assert "p99.9   70.0 ms" in text
    assert "budget 50.0 ms" in text
    assert ("INVALID" in text) is (lag_ms > 0)
