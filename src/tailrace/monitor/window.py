"""Sums of counts over the last while, in a fixed number of slots: three days take what a minute does."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from tailrace.deadline import NS_PER_S

SLOTS = 60


class Window:
    """What was counted over the last `span_s` seconds, between all of them and one slot less.

    columns: how many counts there are. Times are monotonic nanoseconds; one that lies back counts into the newest slot.
    """

    def __init__(self, span_s: float, columns: int, slots: int = SLOTS) -> None:
        self.span_s = span_s
        self._hop_ns = int(span_s * NS_PER_S) // slots
        self._cells = np.zeros((slots, columns), np.int64)
        self._newest: int | None = None

    def add(self, at_ns: int, counts: NDArray[np.int64]) -> None:
        """Count what came in the last second. counts: shape (columns,)."""
        self._cells[self._turn(at_ns)] += counts

    def sums(self, at_ns: int) -> NDArray[np.int64]:
        """Return the sums, shape (columns,)."""
        self._turn(at_ns)
        return np.asarray(self._cells.sum(axis=0))

    def take_over(self, earlier: Window, columns: Iterable[tuple[slice, slice]]) -> None:
        """Go on with what another, of the same span and slots, has counted. columns: its columns, and those here."""
        for theirs, own in columns:
            self._cells[:, own] = earlier._cells[:, theirs]
        self._newest = earlier._newest

    def _turn(self, at_ns: int) -> int:
        """Empty the slots that time has come round to; return the newest one's place."""
        slots, now = len(self._cells), at_ns // self._hop_ns
        newest = now if self._newest is None else max(self._newest, now)
        steps = 0 if self._newest is None else min(newest - self._newest, slots)
        for step in range(steps):
            self._cells[(newest - step) % slots] = 0
        self._newest = newest
        return newest % slots
