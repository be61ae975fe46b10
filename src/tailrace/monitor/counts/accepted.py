"""Counting accepted requests, and what becomes of their results."""

from __future__ import annotations

from tailrace.monitor.metrics import ACCEPTED_STAGES
from tailrace.monitor.shared import MetricBlock


class AcceptedCounts:
    """Counts the requests that a worker accepts, by pipeline."""

    def __init__(self, block: MetricBlock) -> None:
        self._cells = block.cells
        series = (each for each in block.layout.series if each.name == "tailrace_accepted_total")
        self._places = {each.labels[0]: each.offset for each in series}

    def count(self, pipeline: str) -> None:
        """Count one request."""
        self._cells[self._places[pipeline]] += 1


class CourierCounts:
    """Counts what becomes of results, and shows what waits, in the courier's block. It alone writes there."""

    def __init__(self, block: MetricBlock) -> None:
        find, self._cells = block.find, block.cells
        self._stages = [find("tailrace_accepted_waiting", stage).offset for stage in ACCEPTED_STAGES]
        self._oldest = find("tailrace_accepted_oldest_seconds").offset
        series = (each for each in block.layout.series if each.name == "tailrace_deliveries_total")
        self._outcomes = {each.labels: each.offset for each in series}

    def count(self, pipeline: str, outcome: str) -> None:
        """Count one try of a pipeline's result, by one of `DELIVERY_OUTCOMES`."""
        self._cells[self._outcomes[pipeline, outcome]] += 1

    def show(self, waiting: int, results: int, set_aside: int, oldest_ns: int) -> None:
        """Show how many requests wait to be scored, how many results to be delivered, how many are set aside."""
        for place, count in zip(self._stages, (waiting, results, set_aside), strict=True):
            self._cells[place] = count
        self._cells[self._oldest] = oldest_ns
