"""What the console remembers of each pipeline: ten minutes by the second and a day by two minutes, in constant memory.

A step of the day is counted from the metrics at its two ends, not averaged from its seconds: its p99 is the p99.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final

import msgspec

from tailrace.deadline import NS_PER_S
from tailrace.monitor.merged import MergedMetrics
from tailrace.server.console.figures import Point, points_of

FINE_STEPS_MAX: Final = 600
COARSE_S: Final = 120
COARSE_STEPS_MAX: Final = 24 * 3_600 // COARSE_S
PIPELINES_MAX: Final = 64
"""Of more pipelines the first are remembered."""


class History:
    """The points of each pipeline, the oldest first, at most `FINE_STEPS_MAX` and `COARSE_STEPS_MAX` of them."""

    def __init__(self) -> None:
        self._fine: dict[str, deque[Point]] = {}
        self._coarse: dict[str, deque[Point]] = {}
        self._last: MergedMetrics | None = None
        self._step_began: MergedMetrics | None = None

    def add(self, metrics: MergedMetrics, at_s: float) -> dict[str, Point]:
        """Remember what was counted since the last call; return the new points. at_s: now, since the epoch."""
        last, self._last = self._last, metrics
        if last is None or self._step_began is None:
            self._step_began = metrics
            return {}
        points = points_of(metrics.since(last), at_s)
        _keep(self._fine, points, FINE_STEPS_MAX)
        if metrics.at_ns - self._step_began.at_ns >= COARSE_S * NS_PER_S:
            _keep(self._coarse, points_of(metrics.since(self._step_began), at_s), COARSE_STEPS_MAX)
            self._step_began = metrics
        return points

    def move(self, by_s: float) -> None:
        """Move all points: the clock was set by so many seconds."""
        for kept in (*self._fine.values(), *self._coarse.values()):
            moved = [msgspec.structs.replace(point, at_s=round(point.at_s + by_s, 1)) for point in kept]
            kept.clear()
            kept.extend(moved)

    def columns(self) -> dict[str, dict[str, dict[str, list[Any]]]]:
        """Return what is remembered: by pipeline, fine and coarse, and the fields of `Point`, a list each."""
        return {
            name: {"fine": _columns(points), "coarse": _columns(self._coarse.get(name, ()))}
            for name, points in self._fine.items()
        }


def _keep(kept: dict[str, deque[Point]], points: dict[str, Point], steps_max: int) -> None:
    """Append each pipeline's point to its own."""
    for name, point in points.items():
        if name in kept or len(kept) < PIPELINES_MAX:
            kept.setdefault(name, deque(maxlen=steps_max)).append(point)


def _columns(points: Any) -> dict[str, list[Any]]:
    """Return points as a list for each field."""
    fields = [field.name for field in msgspec.structs.fields(Point)]
    return {field: [getattr(point, field) for point in points] for field in fields}
