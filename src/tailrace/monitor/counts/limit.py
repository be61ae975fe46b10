"""Counting the calls that limits refuse, in the worker's block."""

from __future__ import annotations

from tailrace.monitor.metrics import LIMIT_REASONS
from tailrace.monitor.shared import MetricBlock


class LimitCounts:
    """The cells of all limits of a worker, of each pipeline and of what belongs to none."""

    def __init__(self, block: MetricBlock) -> None:
        self._cells = block.cells
        (self._lease_failures,) = (
            series.offset for series in block.layout.series if series.name == "tailrace_limit_lease_failures_total"
        )
        self._places = {
            series.labels: series.offset
            for series in block.layout.series
            if series.name == "tailrace_rate_limited_total" and series.labels[1] in LIMIT_REASONS
        }

    def count(self, pipeline: str, reason: str) -> None:
        """Count one refusal."""
        self._cells[self._places[pipeline, reason]] += 1

    def count_lease_failure(self) -> None:
        """Count that Redis has lent nothing."""
        self._cells[self._lease_failures] += 1
