"""What several blocks have counted, by series: at one time, or between two of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tailrace.deadline import NS_PER_S
from tailrace.monitor.histogram import Histogram, places_in, quantiles
from tailrace.monitor.layout import Series

Key = tuple[str, tuple[str, ...]]
"""A metric's name and its label values."""


@dataclass(frozen=True, slots=True)
class MergedSeries:
    """One series, summed over the blocks. cells: shape (length,), as in the block."""

    series: Series
    cells: NDArray[np.int64]

    @property
    def value(self) -> int:
        """The value of a counter or gauge."""
        return int(self.cells[0])

    def histogram(self) -> Histogram:
        """Return a histogram of these cells."""
        return Histogram(self.series.edges, self.cells.tolist())

    @property
    def count(self) -> int:
        """How many values a histogram has."""
        return int(self.cells[:-1].sum())

    def count_up_to(self, edge: int) -> int:
        """Return how many of its values are at most `edge`, exactly. Raises ValueError where it is not an edge."""
        return int(self.cells[: self.series.edges.index(edge) + 1].sum())

    def quantiles(self, *qs: float) -> list[float]:
        """Return the values of some ranks (0 to 1) of a histogram, NaN when it is empty: see `Histogram.quantile`."""
        return quantiles(self.series.edges, self.cells, *qs)

    def minus(self, earlier: MergedSeries) -> MergedSeries:
        """Return what was counted after `earlier`; all of it where a worker began again in between.

        Where the edges are others by now, with another budget, what is earlier moves to them: a bucket may keep a call
        too many or too few, and the history is no news.
        """
        before = earlier.cells
        if earlier.series.moves_to(self.series):
            before = np.zeros_like(self.cells)
            np.add.at(before, places_in(earlier.series.edges, self.series.edges), earlier.cells)
            if before[:-1].sum() <= self.cells[:-1].sum():
                return MergedSeries(self.series, np.maximum(self.cells - before, 0))
        same = bool((self.cells >= before).all())
        return MergedSeries(self.series, self.cells - before) if same else self


@dataclass(frozen=True, slots=True)
class Index:
    """The series of merged metrics, and the places of their cells, from and up to.

    cells: how many there are. gauges: the places of those of gauges.
    """

    series: dict[Key, Series]
    places: dict[Key, tuple[int, int]]
    cells: int
    gauges: NDArray[np.int64]

    @classmethod
    def of(cls, series: Iterable[Series]) -> Index:
        """Lay series one behind the other; one that comes again is there already."""
        kinds: dict[Key, Series] = {}
        places: dict[Key, tuple[int, int]] = {}
        gauges, end = [], 0
        for one in series:
            key = (one.name, one.labels)
            if key not in kinds:
                kinds[key], places[key] = one, (end, end + one.length)
                gauges += [end] if one.is_gauge else []
                end += one.length
        return cls(kinds, places, end, np.array(gauges, np.int64))


@dataclass(frozen=True, slots=True)
class MergedMetrics:
    """All series of all blocks at one time. span_s: the time they cover; 0 for since the beginning.

    index, cells: what the series are cut from, where they are of one merge.
    """

    series: dict[Key, MergedSeries]
    at_ns: int
    span_s: float = 0.0
    index: Index | None = None
    cells: NDArray[np.int64] | None = None

    @classmethod
    def of(cls, index: Index, cells: NDArray[np.int64], at_ns: int, span_s: float = 0.0) -> MergedMetrics:
        """Return the metrics of some cells. cells: of all series, one behind the other."""
        kinds, places = index.series, index.places
        series = {key: MergedSeries(kinds[key], cells[start:stop]) for key, (start, stop) in places.items()}
        return cls(series, at_ns, span_s, index, cells)

    def since(self, earlier: MergedMetrics) -> MergedMetrics:
        """Return what was counted after `earlier`. Gauges stay as they are."""
        if self.index is not None and self.index is earlier.index:
            assert self.cells is not None
            assert earlier.cells is not None
            counted = self.cells - earlier.cells
            counted[self.index.gauges] = self.cells[self.index.gauges]
            return MergedMetrics.of(self.index, counted, self.at_ns, (self.at_ns - earlier.at_ns) / NS_PER_S)
        moved = {
            key: merged if merged.series.is_gauge or key not in earlier.series else merged.minus(earlier.series[key])
            for key, merged in self.series.items()
        }
        span_s = (self.at_ns - earlier.at_ns) / NS_PER_S
        if self.index is None or not moved:
            return MergedMetrics(moved, self.at_ns, span_s)
        return MergedMetrics.of(self.index, np.concatenate([one.cells for one in moved.values()]), self.at_ns, span_s)

    def value(self, name: str, *labels: str) -> int:
        """Return one counter or gauge; 0 where it is not there."""
        merged = self.series.get((name, labels))
        return merged.value if merged else 0

    def histogram(self, name: str, *labels: str) -> Histogram:
        """Return one histogram. Raises KeyError where it is not there."""
        return self.series[name, labels].histogram()
