"""How old the rows are that requests are served from: by view, over the last rows, in constant memory."""

from __future__ import annotations

from collections import deque
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from tailrace.deadline import NS_PER_S
from tailrace.monitor.predictions import Predictions

ROWS_MAX: Final = 1_000
"""Of a view, about; the last batches that have so many."""
VIEWS_MAX: Final = 256
"""Of all pipelines; of more the first are watched."""
QUIET_S_MAX: Final = 60.0
"""What was served longer ago tells nothing of now."""


class ViewAge(msgspec.Struct, frozen=True):
    """Seconds since the event time of the last rows of a batch view: the median, and the oldest of them."""

    median_s: float
    max_s: float
    rows: int


class Ages:
    """Takes what was served, and tells how old it was."""

    def __init__(self) -> None:
        self._views: dict[tuple[str, str], _Last] = {}

    def take(self, found: Predictions, now_s: float) -> None:
        """Keep the ages of some rows; one that nothing was stored of has none. now_s: monotonic."""
        for view, event_ns in found.event_ns.items():
            key = (found.pipeline, view)
            if key not in self._views and len(self._views) >= VIEWS_MAX:
                continue
            is_stored = event_ns > 0
            ages_ns = found.answered_ns[found.places[is_stored]] - event_ns[is_stored]
            if len(ages_ns):
                self._views.setdefault(key, _Last()).add(ages_ns[-ROWS_MAX:], now_s)

    def told(self, now_s: float) -> dict[str, dict[str, ViewAge]]:
        """Return the ages by pipeline and view, of what was served of late. now_s: monotonic."""
        ages: dict[str, dict[str, ViewAge]] = {}
        for (pipeline, view), last in self._views.items():
            if now_s - last.at_s <= QUIET_S_MAX:
                ages.setdefault(pipeline, {})[view] = last.told()
        return ages


class _Last:
    """The ages of the last rows of one view."""

    def __init__(self) -> None:
        self.at_s = 0.0
        self._parts: deque[NDArray[np.int64]] = deque()
        self._rows = 0

    def add(self, ages_ns: NDArray[np.int64], now_s: float) -> None:
        """Keep some, and let go of what they replace."""
        self.at_s = now_s
        self._parts.append(ages_ns.copy())
        self._rows += len(ages_ns)
        while self._rows - len(self._parts[0]) >= ROWS_MAX:
            self._rows -= len(self._parts.popleft())

    def told(self) -> ViewAge:
        """Return what they are."""
        ages_s = np.concatenate(self._parts) / NS_PER_S
        return ViewAge(round(float(np.median(ages_s)), 3), round(float(ages_s.max()), 3), self._rows)
