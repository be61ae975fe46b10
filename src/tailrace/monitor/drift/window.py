"""What has come of each series: counts a cell and moments, added a batch at a time. Its memory never grows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tailrace.monitor.drift.series import CELLS_MAX, NumberSeries, Series
from tailrace.monitor.drift.statistics import Floats


@dataclass(slots=True)
class Tally:
    """Arrays with a row a series. counts, sums: of values a cell; squares: their sum; values are told as `Series` does.

    missing: rows without a value; defaulted: rows answered with a default, of `sourced` whose provenance is known.
    """

    counts: Floats
    sums: Floats
    squares: Floats
    missing: Floats
    defaulted: Floats
    sourced: Floats

    @classmethod
    def empty(cls, series: int) -> Self:
        """Return one of nothing."""
        cells = [np.zeros((series, CELLS_MAX)) for _ in range(2)]
        return cls(*cells, *(np.zeros(series) for _ in range(4)))

    @property
    def arrays(self) -> tuple[Floats, ...]:
        """All of them, in the order in which they are declared."""
        return self.counts, self.sums, self.squares, self.missing, self.defaulted, self.sourced

    @property
    def rows(self) -> Floats:
        """The values of each series."""
        return np.asarray(self.counts.sum(axis=1))

    @property
    def means(self) -> Floats:
        """The mean of each series; 0 of nothing."""
        return np.asarray(self.sums.sum(axis=1) / np.maximum(self.rows, 1.0))

    @property
    def variances(self) -> Floats:
        """The variance of each series."""
        return np.asarray(np.maximum(self.squares / np.maximum(self.rows, 1.0) - self.means**2, 0.0))

    def merge(self, other: Tally, chosen: NDArray[np.bool_] | None = None) -> None:
        """Add another one's; chosen: of which series, all by default."""
        for ours, theirs in zip(self.arrays, other.arrays, strict=True):
            added = theirs if chosen is None else theirs * chosen.reshape(-1, *[1] * (theirs.ndim - 1))
            np.add(ours, added, out=ours)

    def take(self, chosen: NDArray[np.bool_], other: Tally) -> Tally:
        """Return this one's rows where chosen, and another one's elsewhere."""
        pairs = zip(self.arrays, other.arrays, strict=True)
        return Tally(*(np.where(chosen.reshape(-1, *[1] * (a.ndim - 1)), a, b) for a, b in pairs))


@dataclass(slots=True)
class DriftWindow:
    """One window's tally of some series, of `rows` predictions of so many `requests`."""

    series: Sequence[Series]
    tally: Tally = field(init=False)
    rows: int = 0
    requests: int = 0

    def __post_init__(self) -> None:
        self.tally = Tally.empty(len(self.series))

    def add(
        self,
        columns: Mapping[str, NDArray[Any]],
        defaulted: Mapping[str, NDArray[np.bool_]] | None = None,
        requests: int | None = None,
    ) -> None:
        """Add a batch, see `columns_of`. requests: that it is of; by default each row is one.

        columns: values by the name of the series, shape (rows,); categories as texts, or as places among the known.
        defaulted: which rows were answered with a default, by view. A series whose column is not there, or is none of
        its kind, is not counted; a column that is no series is left aside.
        """
        tally, most = self.tally, 0
        for place, series in enumerate(self.series):
            if defaulted and (noted := defaulted.get(series.name)) is not None:
                tally.defaulted[place] += np.count_nonzero(noted)
                tally.sourced[place] += len(noted)
            values = columns.get(series.name)
            if (
                values is None
                or not len(values)
                or (isinstance(series, NumberSeries) and values.dtype.kind not in "fiub")
            ):
                continue
            counts, sums, squares, missing = series.count(values)
            tally.counts[place, : series.cells] += counts
            tally.sums[place, : series.cells] += sums
            tally.squares[place] += squares
            tally.missing[place] += missing
            most = max(most, len(values))
        self.rows += most
        self.requests += most if requests is None else requests


def reference_tally(series: Sequence[Series]) -> Tally:
    """Return what the profile says of the series; nothing of those that it does not have."""
    tally = Tally.empty(len(series))
    for place, each in enumerate(series):
        tally.missing[place] = each.nulls
        if each.reference is not None:
            tally.counts[place, : each.cells], tally.sums[place, : each.cells] = each.reference
            varies = isinstance(each, NumberSeries) and len(each.edges) > 2  # a constant has two edges, and no variance
            tally.squares[place] = tally.counts[place].sum() if varies else 0.0
    return tally
