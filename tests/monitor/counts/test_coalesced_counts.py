"""Calls that share answers are counted as answered, and as shared; no row is counted that no model scored."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

import tailrace as tr
from tailrace.batch import Batch, Call, Degraded
from tailrace.codecs.json import JsonEncoder
from tailrace.deadline import Budget
from tailrace.errors import InferenceError
from tailrace.monitor.counts.coalesced import CoalescedCounts, KeptCounts
from tailrace.monitor.layout import PipelineShape, worker_layout
from tailrace.monitor.merging import merge_blocks
from tailrace.monitor.recorder import BatchRecorder
from tailrace.monitor.shared import MetricBlock
from tailrace.monitor.snapshot import pipeline_snapshots
from tailrace.request.coalescing import Coalescing
from tailrace.request.request_key import RequestKey
from tailrace.request.shared_answers import CoalescePlan
from tailrace.testing import ManualClock


def shared(calls: int, answer: str) -> Batch:
    """Return a batch of calls that share answers, which came 5 µs after its start."""
    made = [Call(cast(Any, None), None, None, 5_000, 10**9, 1) for _ in range(calls)]
    return Batch(made, 0, 10**9, coalesced=answer)


def test_shared_calls_are_counted_once_each() -> None:
    """As requests with their times, as shared by how, degraded and failed where they are; /status tells the share."""
    shape = PipelineShape("fraud", Budget("50ms"), coalesces=True)
    block = MetricBlock.create(worker_layout([shape, PipelineShape("plain", Budget("50ms"))]))
    own = BatchRecorder(block, "fraud")
    counts = CoalescedCounts(block, "fraud", own)
    own.count_batch([0] * 6, 10_000, [0, 0], 2)
    first = shared(3, "in_flight")
    first.degraded = np.array([Degraded.STALE_FEATURES, 0, 0], np.uint8)
    first.errors = {2: InferenceError("no")}
    counts.record_coalesced(first, 10_000)
    counts.record_coalesced(shared(5, "kept"), 10_000)
    metrics = merge_blocks([block])
    fraud, plain = pipeline_snapshots(metrics)
    assert fraud.coalesced == {"in_flight": 3, "kept": 5}
    assert fraud.coalesced_share == 0.8
    assert (fraud.requests, fraud.rows, fraud.codes) == (10, 2, {"200": 9, "500": 1})
    assert fraud.degraded == {"stale_features": 1}
    assert (fraud.whole.count, fraud.wait.count, fraud.layers["inference"].count) == (10, 10, 2)
    assert metrics.histogram("tailrace_queue_wait_seconds", "fraud").sum == 0
    assert (plain.coalesced, plain.coalesced_share) == ({}, None)


def test_kept_bytes_are_told_and_old_answers_let_go() -> None:
    """Once a second."""
    clock, block = ManualClock(), MetricBlock.create(worker_layout([PipelineShape("a", Budget("1s"), coalesces=True)]))
    plan = CoalescePlan(
        key=RequestKey(tr.Request, []), own=(), ttl_ns=1_000_000, answers_max=10, bytes_max=10_000,
        across_callers=False, usual=JsonEncoder(),
    )  # fmt: skip
    coalescing = Coalescing(plan, cast(Any, None), cast(Any, None), clock.now_ns, alike_ns=0)
    counts, kept = KeptCounts(block, "a", coalescing, clock), coalescing.kept
    assert kept is not None
    kept.keep(b"k", [1.0], clock.now_ns())
    counts.look()
    assert merge_blocks([block]).value("tailrace_coalesced_bytes", "a") == kept.bytes > 0
    clock.advance(2)
    counts.look()
    assert merge_blocks([block]).value("tailrace_coalesced_bytes", "a") == kept.bytes == 0
    coalescing.kept = None
    counts.look()
