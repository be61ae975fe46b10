"""Garbage, bytes of stores, and queues, in the cells of a worker."""

from __future__ import annotations

import gc
import time

from tailrace.deadline import NS_PER_MS, NS_PER_S, Budget
from tailrace.monitor.counts.loop import LoopCounts
from tailrace.monitor.counts.queue import ROWS_MIN, LoopPace, QueueCounts
from tailrace.monitor.layout import PipelineShape, worker_layout
from tailrace.monitor.merging import merge_blocks
from tailrace.monitor.shared import MetricBlock
from tailrace.request.admission import Admission
from tailrace.traffic import Traffic


def make_block() -> MetricBlock:
    """Return a worker's block."""
    return MetricBlock.create(worker_layout([PipelineShape("fraud", Budget("50ms"))]))


def test_collections_are_timed() -> None:
    """Each is counted with the time that it took, and none after the worker is gone."""
    block = make_block()
    counts = LoopCounts(block, 0, Traffic())
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        began_ns = time.perf_counter_ns()
        gc.collect()
        gc.collect(0)
        took_ns = time.perf_counter_ns() - began_ns
        counts.close()
        gc.collect()
    finally:
        if was_enabled:
            gc.enable()
    merged = merge_blocks([block])
    assert merged.value("tailrace_gc_pauses_total", "0") == 2
    assert 0 < merged.value("tailrace_gc_pause_seconds_total", "0") <= took_ns


def test_bytes_are_those_since_the_worker_serves() -> None:
    """What went at the warm-up is not counted; a successor counts on."""
    block = make_block()
    for _ in range(2):
        traffic = Traffic()
        traffic.sent, traffic.received = 1_000, 5_000
        counts = LoopCounts(block, 0, traffic)
        traffic.sent += 70
        counts.look()
        traffic.received += 9
        counts.look()
        counts.close()
    merged = merge_blocks([block])
    found = [merged.value("tailrace_store_bytes_total", "0", direction) for direction in ("sent", "received")]
    assert found == [140, 18]


def test_queue_and_capacity_are_what_admission_knows() -> None:
    """The rows that wait now, and a second over what a row takes; those of all workers add up."""
    blocks = [make_block(), make_block()]
    for block in blocks:
        admission = Admission(50 * NS_PER_MS, NS_PER_MS, NS_PER_MS, row_ns=20_000.0, rows_best=64)
        admission.rows_waiting = 12
        QueueCounts(block, "fraud", admission, LoopPace(block)).look()
    merged = merge_blocks(blocks)
    assert merged.value("tailrace_queue_rows", "fraud") == 24
    assert merged.value("tailrace_capacity_rows_per_second", "fraud") == 2 * NS_PER_S // 20_000


def test_capacity_is_what_the_loop_does_in_a_second_of_its_core() -> None:
    """However fast the model is: once there were rows enough to tell, and as it was of late."""
    block, cpu_ns = make_block(), [0]
    pace = LoopPace(block, lambda: cpu_ns[0])
    admission = Admission(50 * NS_PER_MS, NS_PER_MS, NS_PER_MS, row_ns=1_000.0, rows_best=64)
    counts = QueueCounts(block, "fraud", admission, pace)

    def capacity(rows: int, cpu_ms: int) -> int:
        block.cells[block.find("tailrace_rows_total", "fraud").offset] += rows
        cpu_ns[0] += cpu_ms * NS_PER_MS
        pace.look()
        counts.look()
        return merge_blocks([block]).value("tailrace_capacity_rows_per_second", "fraud")

    assert capacity(ROWS_MIN - 1, 20) == 1_000_000
    assert capacity(3_000, 150) == 20_000
    assert 20_000 < capacity(8_000, 200) < 40_000
    for _ in range(30):
        told = capacity(8_000, 200)
    assert 39_000 < told <= 40_000
    assert capacity(0, 5) == told
