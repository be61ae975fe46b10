"""What has become of spans: what the observer tells of them, and where each is counted."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from tailrace.monitor.metrics import SPAN_OUTCOMES
from tailrace.monitor.shared import MetricBlock


class TraceState(msgspec.Struct, frozen=True, kw_only=True):
    """How traces are doing since the observer began. to: where they go. fault: why the last spans were not taken.

    spans: how many became what (`SPAN_OUTCOMES`). waiting: those that are not sent yet.
    """

    to: str
    spans: dict[str, int]
    waiting: int
    fault: str


class SpanCounts:
    """The cells of what has become of spans."""

    def __init__(self, block: MetricBlock) -> None:
        self._cells = block.cells
        found = {outcome: block.find("tailrace_spans_total", outcome).offset for outcome in SPAN_OUTCOMES}
        self._places = {outcome: (place, self._cells[place]) for outcome, place in found.items()}

    def set(self, spans: Mapping[str, int]) -> None:
        """Tell how many spans of this process have become what so far."""
        for outcome, (place, before) in self._places.items():
            self._cells[place] = before + spans[outcome]
