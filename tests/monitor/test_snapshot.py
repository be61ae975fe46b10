"""Merging over workers, and what was counted since."""

from __future__ import annotations

import pytest

from tailrace.deadline import NS_PER_S, Budget
from tailrace.monitor.layout import PipelineShape, worker_layout
from tailrace.monitor.merging import merge_blocks
from tailrace.monitor.recorder import BatchRecorder, WorkerRecorder
from tailrace.monitor.shared import BlockReader, MetricBlock, make_block_fd
from tailrace.monitor.snapshot import pipeline_snapshots


def make_block(slot: int = 0, budget: str = "50ms", pipelines: tuple[str, ...] = ("fraud",)) -> MetricBlock:
    """Return an empty block of one worker."""
    return MetricBlock.create(worker_layout([PipelineShape(name, Budget(budget)) for name in pipelines], slot))


def record(block: MetricBlock, calls: int, spent_ns: int, pipeline: str = "fraud") -> None:
    """Count one batch whose calls took `spent_ns`, all of it in the request layer."""
    BatchRecorder(block, pipeline).count_batch([0] + [spent_ns] * 5, spent_ns, [0] * calls, calls)


def test_merge_sums_counters_and_keeps_gauges_apart() -> None:
    """Counters of two workers add up; each worker's gauge is its own series."""
    blocks = [make_block(0), make_block(1)]
    for calls, block in enumerate(blocks, start=3):
        record(block, calls, 1_000_000)
        WorkerRecorder(block, calls - 3).set_connections(calls)
    metrics = merge_blocks(blocks)
    assert metrics.value("tailrace_rows_total", "fraud") == 7
    assert metrics.series["tailrace_request_seconds", ("fraud",)].histogram().count == 7
    assert [metrics.value("tailrace_connections", slot) for slot in "01"] == [3, 4]


def test_merge_leaves_out_blocks_not_yet_written() -> None:
    """A worker that is still starting does not hide the others."""
    block = make_block()
    record(block, 2, 1_000)
    metrics = merge_blocks([BlockReader(make_block_fd("empty")), block])
    assert metrics.value("tailrace_rows_total", "fraud") == 2


def test_merge_of_different_budgets_loses_no_call() -> None:
    """While workers of two declarations run side by side, their histograms still add up."""
    old, new = make_block(budget="50ms"), make_block(budget="80ms")
    record(old, 5, 40_000_000)
    record(new, 6, 70_000_000)
    [snapshot] = pipeline_snapshots(merge_blocks([old, new]))
    assert (snapshot.whole.count, snapshot.whole.budget_ns) == (11, 50_000_000)
    assert snapshot.whole.p99_ns == pytest.approx(70_000_000, rel=0.17)  # two buckets: its own and the one it moved to


def test_since_gives_what_was_counted_after() -> None:
    """Rates and quantiles over a span see only that span."""
    block = make_block()
    record(block, 100, 1_000_000)
    before = merge_blocks([block], at_ns=0)
    record(block, 50, 8_000_000)
    now = merge_blocks([block], at_ns=2 * NS_PER_S)
    [recent] = pipeline_snapshots(now.since(before))
    assert (recent.requests, recent.requests_per_s) == (50, 25.0)
    assert recent.whole.p50_ns == pytest.approx(8_000_000, rel=0.08)
    [total] = pipeline_snapshots(now)
    assert (total.requests, total.requests_per_s) == (150, None)
    assert total.whole.p50_ns == pytest.approx(1_000_000, rel=0.08)


def test_since_a_worker_that_began_anew_is_never_negative() -> None:
    """Counters that fell are taken as counted from 0."""
    block = make_block()
    record(block, 100, 1_000_000)
    before = merge_blocks([block], at_ns=0)
    block = make_block()
    record(block, 7, 1_000_000)
    [recent] = pipeline_snapshots(merge_blocks([block], at_ns=NS_PER_S).since(before))
    assert (recent.requests, recent.whole.count) == (7, 7)


def test_since_keeps_gauges() -> None:
    """A gauge tells of now, whatever it was before."""
    block = make_block()
    WorkerRecorder(block).set_connections(9)
    before = merge_blocks([block], at_ns=0)
    assert merge_blocks([block], at_ns=1).since(before).value("tailrace_connections", "0") == 9


def test_snapshot_tells_the_share_within_budget() -> None:
    """Exactly the calls at or under the budget are within it."""
    block = make_block()
    record(block, 3, 50_000_000)
    record(block, 1, 50_000_001)
    [snapshot] = pipeline_snapshots(merge_blocks([block]))
    assert snapshot.within_budget == 0.75


def test_snapshot_of_nothing_has_no_quantiles() -> None:
    """An idle pipeline has counts of 0 and no figures made up."""
    snapshots = pipeline_snapshots(merge_blocks([make_block(pipelines=("a", "b"))]))
    assert [snapshot.name for snapshot in snapshots] == ["a", "b"]
    assert all(s.whole.p99_ns is s.within_budget is s.rows_per_batch is None for s in snapshots)
