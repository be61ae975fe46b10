"""Counting the batches that a heavy model forms: each one when it begins, on the worker's loop."""

from __future__ import annotations

from tailrace.inference.batching import Formed
from tailrace.monitor.metrics import BATCH_REASONS
from tailrace.monitor.shared import MetricBlock


class ModelCounts:
    """The cells of one model of a pipeline that is computed here; those of a light one stay 0."""

    def __init__(self, block: MetricBlock, pipeline: str, model: str) -> None:
        self._cells = block.cells
        self._batches = [
            block.find("tailrace_model_batches_total", pipeline, model, reason).offset for reason in BATCH_REASONS
        ]
        self._rows = block.histogram("tailrace_model_batch_rows", pipeline, model)
        self._wait = block.histogram("tailrace_model_wait_seconds", pipeline, model)

    def count(self, formed: Formed) -> None:
        """Count one batch."""
        self._cells[self._batches[formed.reason]] += 1
        self._rows.observe(formed.rows)
        self._wait.observe(formed.waited_ns)
