"""Lanes: the algebra that aggregates over windows are made of (aggregates.py).

A lane prepares an entry of each event, and merges entries that follow each other in time into one. In whatever groups
entries are merged, the same comes out: so what is stored can be merged early, late or never.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from tailrace.features.ranges import (
    Places,
    add_whole,
    first_places,
    last_places,
    reduce_by_halves,
    reduce_ranges,
    spread,
)

Columns = Sequence[NDArray[Any]]
"""The columns of a lane's entries, one for each of its fields."""

NO_TIME_NS: Final = np.iinfo(np.int64).min
WHOLE_MAX: Final = 1 << 53
"""Of the last decimal, one value of an exact sum at most: beyond, a float is no more exact, and taken as that."""
TOGETHER_MAX: Final = 1 << 22
"""Entries that ranges are spread to at once: of more, `MomentsLane` merges by halves."""


class Lane(Protocol):
    """One part of what is kept of events: entries of some fields, and how they are merged. Compared by value."""

    @property
    def fields(self) -> tuple[str, ...]:
        """The dtypes of an entry's fields, as they are stored."""
        ...

    def prepare(self, values: NDArray[Any], counted: NDArray[np.bool_], times: NDArray[np.int64]) -> Columns:
        """Return an entry for each event.

        values: float64, of the lane's expression. counted: which events count; the others are entries of nothing.
        times: ns since the epoch.
        """
        ...

    def merge(self, columns: Columns, begins: Places, ends: Places) -> Columns:
        """Return the entry of each range; of an empty one, an entry of nothing."""
        ...


@dataclass(frozen=True, slots=True)
class CountLane:
    """How many events count."""

    fields: tuple[str, ...] = field(default=("<u4",), init=False)

    def prepare(self, values: NDArray[Any], counted: NDArray[np.bool_], times: NDArray[np.int64]) -> Columns:
        """Count one for each event that counts."""
        return (counted.astype(np.uint32),)

    def merge(self, columns: Columns, begins: Places, ends: Places) -> Columns:
        """Add."""
        return (add_whole(columns[0], begins, ends),)


@dataclass(frozen=True, slots=True)
class SumLane:
    """The sum of values. decimals: kept as a whole number of the last decimal, and so exact; None: as a float."""

    decimals: int | None

    @property
    def fields(self) -> tuple[str, ...]:
        """One number."""
        return ("<f8",) if self.decimals is None else ("<i8",)

    def prepare(self, values: NDArray[Any], counted: NDArray[np.bool_], times: NDArray[np.int64]) -> Columns:
        """Take the value of each event that counts."""
        values = np.where(counted, values, 0.0)
        if self.decimals is None:
            return (values,)
        with np.errstate(over="ignore"):
            whole = np.rint(values * 10**self.decimals)
        return (np.clip(whole, -WHOLE_MAX, WHOLE_MAX).astype(np.int64),)

    def merge(self, columns: Columns, begins: Places, ends: Places) -> Columns:
        """Add."""
        if self.decimals is None:
            return (reduce_ranges(np.add, columns[0], begins, ends, 0.0),)
        return (add_whole(columns[0], begins, ends),)


@dataclass(frozen=True, slots=True)
class ExtremeLane:
    """The least value, or the greatest. Of nothing: infinity, or minus infinity."""

    is_max: bool
    fields: tuple[str, ...] = field(default=("<f8",), init=False)

    @property
    def _nothing(self) -> float:
        return -np.inf if self.is_max else np.inf

    def prepare(self, values: NDArray[Any], counted: NDArray[np.bool_], times: NDArray[np.int64]) -> Columns:
        """Take the value of each event that counts."""
        return (np.where(counted, values, self._nothing),)

    def merge(self, columns: Columns, begins: Places, ends: Places) -> Columns:
        """Take the extreme."""
        function = np.maximum if self.is_max else np.minimum
        return (reduce_ranges(function, columns[0], begins, ends, self._nothing),)


@dataclass(frozen=True, slots=True)
class MomentsLane:
    """How many values, their mean, and the sum of their squared distances from it.

    Merged as by Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances"
    (1979): a sum of squares would lose all digits where values are large and alike.
    """

    fields: tuple[str, ...] = field(default=("<u4", "<f8", "<f8"), init=False)

    def prepare(self, values: NDArray[Any], counted: NDArray[np.bool_], times: NDArray[np.int64]) -> Columns:
        """Take the value of each event that counts."""
        return counted.astype(np.uint32), np.where(counted, values, 0.0), np.zeros(len(values))

    def merge(self, columns: Columns, begins: Places, ends: Places) -> Columns:
        """Merge counts, means and squares, each range about its own mean."""
        if int((ends - begins).sum()) > TOGETHER_MAX:
            total, mean, square = reduce_by_halves(_join_moments, columns, begins, ends, (np.uint32(0), 0.0, 0.0))
            return total.astype(np.int64), mean, square
        counts, means, squares = columns
        group, places = spread(begins, ends)
        weights, rows = counts[places].astype(np.float64), len(begins)
        total = np.bincount(group, weights, rows)
        divisor = np.maximum(total, 1.0)
        shift = means[np.minimum(begins, max(len(means) - 1, 0))] if len(means) else np.zeros(rows)
        with np.errstate(over="ignore", invalid="ignore"):  # of values over 1e154 there is no square
            mean = shift + np.bincount(group, weights * (means[places] - shift[group]), rows) / divisor
            apart = weights * (means[places] - mean[group]) ** 2
            square = np.bincount(group, squares[places] + apart, rows)
        return total.astype(np.int64), np.where(total > 0, mean, 0.0), square


@dataclass(frozen=True, slots=True)
class MomentLane:
    """The latest event that counts, or the earliest: when it was, and its value. Of nothing: `NO_TIME_NS`."""

    is_latest: bool
    fields: tuple[str, ...] = field(default=("<i8", "<f8"), init=False)

    def prepare(self, values: NDArray[Any], counted: NDArray[np.bool_], times: NDArray[np.int64]) -> Columns:
        """Take time and value of each event that counts."""
        return np.where(counted, times, NO_TIME_NS), np.where(counted, values, 0.0)

    def merge(self, columns: Columns, begins: Places, ends: Places) -> Columns:
        """Take the last of each range that counts, or the first: entries are in the order of their events."""
        times, values = columns
        if not len(times):
            return np.full(len(begins), NO_TIME_NS), np.zeros(len(begins))
        places = (last_places if self.is_latest else first_places)(times != NO_TIME_NS, begins, ends)
        is_found = places >= 0
        return np.where(is_found, times[places], NO_TIME_NS), np.where(is_found, values[places], 0.0)


def _join_moments(one: Columns, other: Columns) -> Columns:
    """Merge entries of `MomentsLane` with those right after them."""
    counts = one[0] + other[0]
    share = other[0] / np.maximum(counts, 1)
    apart = other[1] - one[1]
    return counts, one[1] + apart * share, one[2] + other[2] + apart**2 * one[0] * share
