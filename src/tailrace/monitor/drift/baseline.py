"""What windows without drift are like, of one hour of the season: learned from them, and slowly forgotten."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from tailrace.monitor.drift.series import CELLS_MAX
from tailrace.monitor.drift.statistics import Floats
from tailrace.monitor.drift.window import Tally


@dataclass(slots=True)
class Baseline:
    """Arrays with a row a series. tally: all windows together. windows: how many there were.

    means, mean_squares: sums over the windows of their mean, and of its square; shares, share_squares: of the share of
    each cell.
    """

    tally: Tally
    windows: Floats
    means: Floats
    mean_squares: Floats
    shares: Floats
    share_squares: Floats

    @classmethod
    def empty(cls, series: int) -> Self:
        """Return one that knows nothing."""
        cells = [np.zeros((series, CELLS_MAX)) for _ in range(2)]
        return cls(Tally.empty(series), *(np.zeros(series) for _ in range(3)), *cells)

    @property
    def arrays(self) -> tuple[Floats, ...]:
        """All of them, in the order in which they are declared."""
        own = self.windows, self.means, self.mean_squares, self.shares, self.share_squares
        return (*self.tally.arrays, *own)

    def learn(self, window: Tally, chosen: NDArray[np.bool_], windows_max: int) -> None:
        """Take a window for one without drift, of the chosen series. Above so many windows the past counts half."""
        full = chosen & (self.windows >= windows_max)
        if full.any():
            for each in self.arrays:
                each[full] /= 2
        rows, means = window.rows, window.means
        chosen = chosen & (rows + window.missing + window.sourced > 0)
        shares = window.counts / np.maximum(rows, 1.0)[:, np.newaxis]
        self.tally.merge(window, chosen)
        self.windows += chosen
        self.means += means * chosen
        self.mean_squares += means**2 * chosen
        self.shares += shares * chosen[:, np.newaxis]
        self.share_squares += shares**2 * chosen[:, np.newaxis]

    @property
    def mean(self) -> Floats:
        """The mean of the windows' means."""
        return np.asarray(self.means / np.maximum(self.windows, 1.0))

    @property
    def deviation(self) -> Floats:
        """The standard deviation of the windows' means; 0 of fewer than two."""
        return np.asarray(np.sqrt(_variance(self.means, self.mean_squares, self.windows)))

    @property
    def widening(self) -> Floats:
        """How much wider two deviations are for who knows them by so few windows: Student's t, of one window more.

        By the first term of its expansion (Fisher 1925): t is z (1 + (z² + 1) / 4f) with f degrees of freedom.
        """
        windows = np.maximum(self.windows, 2.0)
        return np.asarray((1.0 + 5.0 / (4.0 * (windows - 1.0))) * np.sqrt(1.0 + 1.0 / windows))

    @property
    def shares_known(self) -> tuple[Floats, Floats]:
        """The mean of the windows' shares of each cell, and their standard deviation."""
        windows = self.windows[:, np.newaxis]
        return self.shares / np.maximum(windows, 1.0), np.sqrt(_variance(self.shares, self.share_squares, windows))

    @property
    def design_effect(self) -> Floats:
        """How many rows are worth one independent row, 1 or more: a customer's payments are alike, hours are not.

        The variance of the cells' shares over the windows, to what it is of independent rows (Rao and Scott, The
        analysis of categorical data from complex sample surveys, JASA 1981, their first-order correction).
        """
        windows = self.windows[:, np.newaxis]
        between = _variance(self.shares, self.share_squares, windows).sum(axis=1)
        shares = self.shares / np.maximum(windows, 1.0)
        rows = self.tally.rows / np.maximum(self.windows, 1.0)
        within = (shares * (1.0 - shares)).sum(axis=1) / np.maximum(rows, 1.0)
        found = np.divide(between, within, out=np.ones_like(between), where=within > 0)
        return np.asarray(np.maximum(found, 1.0))


def _variance(sums: Floats, squares: Floats, count: Floats) -> Floats:
    """Return the sample variance by sums and sums of squares; 0 of fewer than two."""
    mean = sums / np.maximum(count, 1.0)
    spread = np.maximum(squares / np.maximum(count, 1.0) - mean**2, 0.0)
    return np.asarray(np.where(count >= 2, spread * count / np.maximum(count - 1.0, 1.0), 0.0))
