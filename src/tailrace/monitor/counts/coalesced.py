"""Counting what the calls of a pipeline share: each as it is answered, and once a second what the kept answers take."""

from __future__ import annotations

from operator import attrgetter

from tailrace.batch import Batch
from tailrace.deadline import Clock
from tailrace.monitor.metrics import COALESCED_ANSWERS
from tailrace.monitor.recorder import BatchRecorder
from tailrace.monitor.shared import MetricBlock
from tailrace.request.coalescing import Coalescing

_arrival_of = attrgetter("arrival_ns")


class CoalescedCounts:
    """The cells of the calls that share answers; a recorder of the pipeline's engine.

    own: the pipeline's other recorder. It counts them as answered, with their times; but no rows, since no model scored
    any for them.
    """

    def __init__(self, block: MetricBlock, pipeline: str, own: BatchRecorder) -> None:
        self._cells = block.cells
        self._answers = {
            answer: block.find("tailrace_coalesced_total", pipeline, answer).offset for answer in COALESCED_ANSWERS
        }
        self._own = own

    def record(self, batch: Batch, finished_ns: int) -> None:
        """Leave what was computed to the other recorder."""

    def record_coalesced(self, batch: Batch, finished_ns: int) -> None:
        """Count calls that have been answered by others' computations."""
        self._cells[self._answers[batch.coalesced]] += len(batch.calls)
        for error in batch.errors.values():
            self._own.record_failure(type(error))
        arrivals_ns = list(map(_arrival_of, batch.calls))
        self._own.count_shared(batch.started_ns, finished_ns, arrivals_ns, batch.degraded, len(batch.errors))


class KeptCounts:
    """The cell of what a pipeline's kept answers take; 0 where none are kept."""

    def __init__(self, block: MetricBlock, pipeline: str, coalescing: Coalescing, clock: Clock) -> None:
        self._cells = block.cells
        self._bytes = block.find("tailrace_coalesced_bytes", pipeline).offset
        self._coalescing = coalescing
        self._now_ns = clock.now_ns

    def look(self) -> None:
        """Let go of what is too old, and say what the rest takes."""
        self._coalescing.forget(self._now_ns())
        kept = self._coalescing.kept
        self._cells[self._bytes] = 0 if kept is None else kept.bytes
