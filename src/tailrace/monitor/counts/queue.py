"""Counting what admission knows of a pipeline's queue, and how many rows its worker could answer: once a second."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from tailrace.deadline import NS_PER_S
from tailrace.monitor.shared import MetricBlock
from tailrace.request.admission import Admission

ROWS_MIN: Final = 100
"""With fewer in a second, what a loop does beside them would be taken for theirs."""
GAIN: Final = 0.2
"""Of the difference to the last second's, what the estimate moves."""


class LoopPace:
    """How many rows a loop answers in a second of its CPU, of all pipelines: JSON, HTTP and stores are in that.

    cpu_ns: the CPU time of the loop's thread.
    """

    def __init__(self, block: MetricBlock, cpu_ns: Callable[[], int] = time.thread_time_ns) -> None:
        self._cells = block.cells
        self._places = [one.offset for one in block.layout.series if one.name == "tailrace_rows_total"]
        self._cpu_ns = cpu_ns
        self._rows, self._at_ns = self._count(), cpu_ns()
        self.rows_per_s: float | None = None

    def look(self) -> None:
        """Learn from what came since the last look."""
        rows, at_ns = self._count(), self._cpu_ns()
        came, took_ns = rows - self._rows, at_ns - self._at_ns
        self._rows, self._at_ns = rows, at_ns
        if came >= ROWS_MIN and took_ns > 0:
            rate = came * NS_PER_S / took_ns
            self.rows_per_s = rate if self.rows_per_s is None else self.rows_per_s + (rate - self.rows_per_s) * GAIN

    def _count(self) -> int:
        return sum(self._cells[place] for place in self._places)


class QueueCounts:
    """The cells of one engine's queue, and of what it could answer if it were alone on its loop."""

    def __init__(self, block: MetricBlock, pipeline: str, admission: Admission, pace: LoopPace) -> None:
        self._cells = block.cells
        self._rows = block.find("tailrace_queue_rows", pipeline).offset
        self._capacity = block.find("tailrace_capacity_rows_per_second", pipeline).offset
        self._admission = admission
        self._pace = pace

    def look(self) -> None:
        """Say what is now."""
        computed = NS_PER_S / self._admission.row_ns
        told = self._pace.rows_per_s
        self._cells[self._rows] = max(self._admission.rows_waiting, 0)
        self._cells[self._capacity] = round(computed if told is None else min(computed, told))
