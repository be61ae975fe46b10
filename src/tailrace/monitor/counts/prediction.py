"""Counting what becomes of predictions that the observer is told of, in its block. It alone writes there."""

from __future__ import annotations

from collections.abc import Mapping

from tailrace.monitor.shared import MetricBlock


class PredictionCounts:
    """The cells of what is logged, by pipeline, and of what is lost, by the reason."""

    def __init__(self, block: MetricBlock) -> None:
        self._cells = block.cells
        self._places = {(series.name, *series.labels): series.offset for series in block.layout.series}
        self._before = {place: self._cells[place] for place in self._places.values()}

    def set_logged(self, logged: Mapping[str, int]) -> None:
        """Tell how many requests of each pipeline this process has written so far."""
        for pipeline, requests in logged.items():
            place = self._places.get(("tailrace_predictions_logged_total", pipeline))
            if place is not None:  # else of a release that this process does not know
                self._cells[place] = self._before[place] + requests

    def lose(self, reason: str, requests: int) -> None:
        """Count requests that are not logged. reason: of `LOST_REASONS`."""
        self._cells[self._places["tailrace_predictions_lost_total", reason]] += requests
