"""Counting what admission knows of a pipeline's queue: once a second."""

from __future__ import annotations

from tailrace.deadline import NS_PER_S
from tailrace.monitor.shared import MetricBlock
from tailrace.request.admission import Admission


class QueueCounts:
    """The cells of one engine's queue, and of what it could answer."""

    def __init__(self, block: MetricBlock, pipeline: str, admission: Admission) -> None:
        self._cells = block.cells
        self._rows = block.find("tailrace_queue_rows", pipeline).offset
        self._capacity = block.find("tailrace_capacity_rows_per_second", pipeline).offset
        self._admission = admission

    def look(self) -> None:
        """Say what is now."""
        self._cells[self._rows] = max(self._admission.rows_waiting, 0)
        self._cells[self._capacity] = round(NS_PER_S / self._admission.row_ns)
