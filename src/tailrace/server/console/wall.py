"""The clock on the wall as the console follows it: it may be set, and what is remembered is moved along with it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

STEP_S_MAX: Final = 2.0
"""A clock that is off by more, against one that nobody sets, was set; by less, it is slewed."""


def _steady_s() -> float:
    """Return a time that only goes on, through a suspension too."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Wall:
    """Tells the time since the epoch, and by how much the clock was set between two looks."""

    def __init__(self, wall_s: Callable[[], float] = time.time, steady_s: Callable[[], float] = _steady_s) -> None:
        self._wall_s, self._steady_s = wall_s, steady_s
        self._offset_s = wall_s() - steady_s()

    def look(self) -> tuple[float, float]:
        """Return the time, and by how many seconds the clock was set since the last look: 0 where it was not."""
        now_s = self._wall_s()
        offset_s = now_s - self._steady_s()
        moved_s, self._offset_s = offset_s - self._offset_s, offset_s
        return now_s, moved_s if abs(moved_s) > STEP_S_MAX else 0.0
