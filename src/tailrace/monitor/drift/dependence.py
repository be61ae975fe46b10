"""How far a window's rows depend on each other, for as long as no baseline tells: by how the last windows differ.

A baseline learns it from quiet windows. Where rows depend much, as the items of a few requests do, no window is quiet
until it is known: so what speaks must tell it too. Windows that have drifted are like each other; chance is not.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from tailrace.monitor.drift.series import CELLS_MAX
from tailrace.monitor.drift.statistics import Floats
from tailrace.monitor.drift.window import Tally

STEPS: Final = 5
"""From one window to the next, of which the median counts: two steps of a drift that comes and goes do not move it."""


class Dependence:
    """Watches the windows of some series, one after the other. It is not kept: five windows tell it anew."""

    def __init__(self, series: int) -> None:
        self._shares = np.zeros((series, CELLS_MAX))
        self._noise = np.full(series, np.nan)
        self._ratios = np.ones((STEPS, series))

    def take(self, window: Tally) -> None:
        """Hear of a window."""
        rows = np.maximum(window.rows, 1.0)
        shares = window.counts / rows[:, np.newaxis]
        noise = np.where(window.rows > 0, (shares * (1.0 - shares)).sum(axis=1) / rows, np.nan)
        expected = noise + self._noise
        differ = ((shares - self._shares) ** 2).sum(axis=1)
        self._ratios[:-1] = self._ratios[1:]
        self._ratios[-1] = np.divide(differ, expected, out=np.ones_like(differ), where=expected > 0)
        self._shares, self._noise = shares, noise

    @property
    def effect(self) -> Floats:
        """How many rows are worth an independent one, (series,), 1 or more: see `Baseline.design_effect`."""
        return np.asarray(np.maximum(np.median(self._ratios, axis=0), 1.0))
