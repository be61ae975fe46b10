"""Merging again and again, while writers begin anew."""

from __future__ import annotations

import signal
import subprocess
import sys

import numpy as np
import pytest
from numpy.typing import NDArray

from tailrace.deadline import NS_PER_S, Budget
from tailrace.monitor.layout import PipelineShape, SeriesLayout, worker_layout
from tailrace.monitor.merging import Merger, merge_blocks
from tailrace.monitor.recorder import BatchRecorder, WorkerRecorder
from tailrace.monitor.shared import MetricBlock, OwnedBlock
from tailrace.monitor.snapshot import pipeline_snapshots

MS = 1_000_000
KILLED_WHILE_LAYING_OUT = """
import mmap, os, signal, sys

block = mmap.mmap(int(sys.argv[1]), 0)
header = memoryview(block)[:64].cast("Q")
header[2], header[3] = 0, header[3] + 1  # it is being written, another generation
block[64:4_096] = b"x" * 4_032
os.kill(os.getpid(), signal.SIGKILL)
"""


def written(owned: OwnedBlock, release: str, slot: int = 0, budget: str = "50ms", name: str = "fraud") -> MetricBlock:
    """Return a slot's block as a worker of a release lays it out."""
    return MetricBlock.create(worker_layout([PipelineShape(name, Budget(budget))], slot, release), owned.fd)


def answer(block: MetricBlock, calls: int, spent_ns: int = 8 * MS) -> None:
    """Count a batch of calls that took so long, half of it in each of request and inference."""
    marks = [0, spent_ns // 2, spent_ns // 2, spent_ns, spent_ns, spent_ns]
    BatchRecorder(block, "fraud").count_batch(marks, spent_ns, [0] * calls, calls)


@pytest.fixture
def slots() -> list[OwnedBlock]:
    """The files of two slots."""
    return [OwnedBlock(f"worker-{slot}") for slot in (0, 1)]


def test_counters_do_not_fall_while_a_release_is_rolled_out(slots: list[OwnedBlock]) -> None:
    """The worker that begins anew takes nothing back of what the other has counted, and nothing seems to have come."""
    answer(written(slots[0], "r1"), 1_000)
    answer(written(slots[1], "r1", slot=1), 2_000)
    merger = Merger(slots)
    before = merger.merge(at_ns=0)
    answer(written(slots[1], "r2", slot=1), 7)
    after = merger.merge(at_ns=NS_PER_S)
    assert after.value("tailrace_rows_total", "fraud") == 3_007
    assert after.series["tailrace_request_seconds", ("fraud",)].count == 3_007
    [recent] = pipeline_snapshots(after.since(before))
    assert (recent.requests, recent.rows, recent.whole.count) == (7, 7, 7)


def test_counters_of_a_release_that_no_worker_serves_are_let_go(slots: list[OwnedBlock]) -> None:
    """Months of releases leave no series behind; what is not told by release is kept."""
    merger = Merger(slots)
    for number in range(30):
        for slot, owned in enumerate(slots):
            answer(written(owned, f"r{number}", slot), 10)
        merged = merger.merge()
    releases = {labels[1] for name, labels in merged.series if name == "tailrace_inference_seconds"}
    assert releases == {"r29"}
    assert merged.value("tailrace_requests_total", "fraud", "200", "r29") == 20
    assert merged.value("tailrace_rows_total", "fraud") == 600


def test_release_has_its_own_times(slots: list[OwnedBlock]) -> None:
    """Two releases side by side: the inference of each, and of both together."""
    answer(written(slots[0], "old"), 30, spent_ns=8 * MS)
    answer(written(slots[1], "new", slot=1), 20, spent_ns=40 * MS)
    series = merge_blocks(slots).series
    old, new = (series["tailrace_inference_seconds", ("fraud", release)] for release in ("old", "new"))
    assert (old.count, new.count) == (30, 20)
    assert old.quantiles(0.5)[0] == pytest.approx(4 * MS, rel=0.01)
    assert new.quantiles(0.5)[0] == pytest.approx(20 * MS, rel=0.01)
    assert series["tailrace_layer_seconds", ("fraud", "inference")].count == 50


def test_another_budget_takes_what_was_counted_along(slots: list[OwnedBlock]) -> None:
    """A release with another budget has other edges; no call is lost between them."""
    merger = Merger(slots)
    answer(written(slots[0], "r1", budget="50ms"), 40)
    answer(written(slots[1], "r1", slot=1, budget="50ms"), 2)
    merger.merge()
    answer(written(slots[0], "r2", budget="80ms"), 5)
    merger.merge()
    answer(written(slots[1], "r2", slot=1, budget="80ms"), 3)
    whole = merger.merge().series["tailrace_request_seconds", ("fraud",)]
    assert (whole.count, whole.series.budget_ns) == (50, 80 * MS)
    assert whole.quantiles(0.5)[0] == pytest.approx(8 * MS, rel=0.03)


def test_gauges_of_a_writer_that_is_gone_are_not_kept(slots: list[OwnedBlock]) -> None:
    """What was so is no part of what is so."""
    WorkerRecorder(written(slots[0], "r1")).set_connections(9)
    merger = Merger(slots)
    assert merger.merge().value("tailrace_connections", "0") == 9
    WorkerRecorder(written(slots[0], "r2")).set_connections(4)
    assert merger.merge().value("tailrace_connections", "0") == 4


def test_worker_that_is_killed_while_it_begins_anew_takes_nothing_along(slots: list[OwnedBlock]) -> None:
    """Its half-written block is told of as it last was; with its successor, counters go on from there."""
    answer(written(slots[0], "r1"), 100)
    merger = Merger(slots)
    before = merger.merge(at_ns=0)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_WHILE_LAYING_OUT, str(slots[0].fd)], pass_fds=(slots[0].fd,), check=False
    )
    assert killed.returncode == -signal.SIGKILL
    assert slots[0].read() is None
    now = merger.merge(at_ns=NS_PER_S)
    assert now.value("tailrace_rows_total", "fraud") == 100
    answer(written(slots[0], "r2"), 7)
    after = merger.merge(at_ns=2 * NS_PER_S)
    assert after.value("tailrace_rows_total", "fraud") == 107
    assert after.since(before).value("tailrace_rows_total", "fraud") == 7


def test_block_that_is_being_laid_out_is_told_of_as_it_was(slots: list[OwnedBlock]) -> None:
    """In the moment in which it cannot be read, counters neither fall nor come back all at once."""

    class Unreadable:
        """A block that a reader comes to at the wrong moment."""

        is_whole = True

        def read(self) -> tuple[SeriesLayout, NDArray[np.uint64]] | None:
            """Return the first slot's cells, or nothing."""
            return slots[0].read() if self.is_whole else None

    block = Unreadable()
    answer(written(slots[0], "r1"), 100)
    merger = Merger([block])
    before = merger.merge(at_ns=0)
    block.is_whole = False
    now = merger.merge(at_ns=NS_PER_S)
    assert now.value("tailrace_rows_total", "fraud") == 100
    assert now.since(before).value("tailrace_rows_total", "fraud") == 0
