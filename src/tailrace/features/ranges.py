"""Sums, extremes and searches over ranges of sorted arrays: the arithmetic that windows are made of.

Ranges are given as two arrays, `begins` and `ends`, of places in an array; range i is [begins[i], ends[i]), and may be
empty. They may overlap, as windows do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Places = NDArray[np.intp]
Merge = Callable[[Sequence[NDArray[Any]], Sequence[NDArray[Any]]], Sequence[NDArray[Any]]]
"""From the columns of entries, and of those right after them, to the columns of both together."""

MANY: Final = 4_096
"""From so many ranges on it pays to look at them together first."""
_BITS: Final = 62
_STEPS_MAX: Final = 64
"""For each range and value: with more steps than that a reduction is made by halves."""


def add_whole(values: NDArray[Any], begins: Places, ends: Places) -> NDArray[np.int64]:
    """Return the sum of each range of whole numbers: exact, as long as it fits 64 bits itself."""
    sums = np.zeros(len(values) + 1, np.int64)
    np.cumsum(values, out=sums[1:])
    return sums[ends] - sums[begins]


def reduce_ranges(function: np.ufunc, values: NDArray[Any], begins: Places, ends: Places, empty: float) -> NDArray[Any]:
    """Return what a function such as np.add makes of each range, `empty` for an empty one.

    Each is reduced by itself: a huge value in one entity's range costs no precision in another's.
    """
    if int((ends - begins).sum()) > _STEPS_MAX * (len(begins) + len(values)):

        def merge(one: Sequence[NDArray[Any]], other: Sequence[NDArray[Any]]) -> Sequence[NDArray[Any]]:
            return [function(one[0], other[0])]

        return reduce_by_halves(merge, [values], begins, ends, [values.dtype.type(empty)])[0]
    padded = np.append(values, values.dtype.type(0))
    places = np.empty(2 * len(begins), np.intp)
    places[::2], places[1::2] = begins, ends
    reduced = function.reduceat(padded, places)[::2] if len(places) else padded[:0]
    return np.where(begins < ends, reduced, values.dtype.type(empty))


def last_places(chosen: NDArray[np.bool_], begins: Places, ends: Places) -> Places:
    """Return the place of the last chosen one in each range, -1 where there is none."""
    places = np.full(len(chosen) + 1, -1, np.intp)
    np.maximum.accumulate(np.where(chosen, np.arange(len(chosen)), -1), out=places[1:])
    found = places[ends]
    return np.where(found >= begins, found, -1)


def first_places(chosen: NDArray[np.bool_], begins: Places, ends: Places) -> Places:
    """Return the place of the first chosen one in each range, -1 where there is none."""
    count = len(chosen)
    places = np.full(count + 1, count, np.intp)
    places[:-1] = np.minimum.accumulate(np.where(chosen, np.arange(count), count)[::-1])[::-1]
    found = places[begins]
    return np.where(found < ends, found, -1)


def search(values: NDArray[Any], begins: Places, ends: Places, limits: NDArray[Any]) -> Places:
    """Return for each range, sorted in itself, the place of its first value that is not below its limit."""
    low, high = begins.copy(), ends.copy()
    if not len(values):
        return low
    last = len(values) - 1
    while np.any(is_open := low < high):
        middle = (low + high) >> 1
        is_below = (values[np.minimum(middle, last)] < limits) & is_open
        low = np.where(is_below, middle + 1, low)
        high = np.where(is_below | ~is_open, high, middle)
    return low


def spread(begins: Places, ends: Places) -> tuple[Places, Places]:
    """Return every place of every range, and before it which range it is of."""
    lengths = ends - begins
    groups = np.repeat(np.arange(len(begins)), lengths)
    return groups, np.arange(len(groups)) - np.repeat(np.cumsum(lengths) - lengths, lengths) + begins[groups]


def gallop(values: NDArray[Any], begins: Places, ends: Places, limits: NDArray[Any]) -> Places:
    """Return what `search` does, in fewer steps where the place is near the begin."""
    if not len(values):
        return begins.copy()
    low, high = begins.copy(), ends.copy()
    last, step, rows = len(values) - 1, 1, np.arange(len(begins))
    while len(rows):
        probe = low[rows] + step - 1
        is_below = (probe < high[rows]) & (values[np.minimum(probe, last)] < limits[rows])
        closed = rows[~is_below]
        high[closed] = np.minimum(high[closed], probe[~is_below])
        rows = rows[is_below]
        low[rows] = probe[is_below] + 1
        step *= 2
    return search(values, low, high, limits)


class Searcher:
    """Searches the same ranges for several limits each.

    Many ranges that lie side by side, several alike (the rows of a page that ask of one entity), are searched as one
    sorted array: of keys, which have the range's number before the value. Where both do not fit 64 bits, the value's
    lowest bits are left out, and the last steps are made by `gallop`:

        values   3  7  7  9 | 1  4 | 2  6  8        keys   range 0: 3 7 7 9 | range 1: 1 4 | range 2: 2 6 8
    """

    def __init__(self, values: NDArray[Any], begins: Places, ends: Places) -> None:
        self._values = values
        self._begins = begins
        self._ends = ends
        self._keys: NDArray[np.int64] | None = None
        if len(begins) >= MANY and values.dtype.kind == "i" and len(values):
            self._make_keys()

    def places(self, limits: NDArray[Any]) -> Places:
        """Return for each range the place of its first value that is not below its limit."""
        if self._keys is None:
            return search(self._values, self._begins, self._ends, limits)
        offsets = (np.clip(limits, self._low, self._beyond) - self._low) >> self._shift
        found: Places = self._first + np.searchsorted(self._keys, self._bases + offsets)
        if self._shift:
            last = len(self._values) - 1
            rest = np.flatnonzero((found < self._ends) & (self._values[np.minimum(found, last)] < limits))
            if len(rest):
                found[rest] = gallop(self._values, found[rest], self._ends[rest], limits[rest])
        return found

    def _make_keys(self) -> None:
        """Make the keys, if ranges with another begin are apart and in order, and there are not too many values."""
        begins, ends = self._begins, self._ends
        is_first = np.ones(len(begins), np.bool_)
        is_first[1:] = begins[1:] != begins[:-1]
        firsts = np.flatnonzero(is_first)
        number = np.cumsum(is_first) - 1
        own_begins, own_ends = begins[firsts], ends[firsts]
        if np.any(own_begins[1:] < own_ends[:-1]) or not np.array_equal(own_ends[number], ends):
            return
        first, end = int(own_begins[0]), int(own_ends[-1])
        covered = self._values[first:end]
        if not 0 < len(covered) <= _STEPS_MAX * len(begins):
            return
        low, high = int(covered.min()), int(covered.max())
        shift = max((high - low).bit_length() + len(firsts).bit_length() - _BITS, 0)
        if high - low >= 1 << _BITS:
            return
        width = ((high - low) >> shift) + 2
        lengths = np.diff(np.append(own_begins, end))
        offsets = (covered - low) >> shift
        if np.any(lengths != own_ends - own_begins):  # values between ranges come after the range before them
            offsets[np.arange(len(covered)) >= np.repeat(own_ends - first, lengths)] = width - 1
        self._keys = np.repeat(np.arange(len(firsts)) * width, lengths) + offsets
        self._bases = number * width
        self._first, self._low, self._shift = first, low, shift
        self._beyond = low + ((width - 1) << shift)


def reduce_by_halves(
    merge: Merge, columns: Sequence[NDArray[Any]], begins: Places, ends: Places, nothing: Sequence[Any]
) -> Sequence[NDArray[Any]]:
    """Return what a function that merges neighbours makes of each range, `nothing` for an empty one.

    It takes as many rounds as the longest range's length has bits. In each a range gives away its first and its last
    entry where the other of its pair is beyond the range; then entries are merged in pairs, to half as many.
    """
    low, high = begins.copy(), ends.copy()
    left = [np.full(len(begins), each) for each in nothing]
    right = [np.full(len(begins), each) for each in nothing]
    while np.any(low < high):
        odd = np.flatnonzero((low < high) & (low & 1 == 1))
        _put(left, odd, merge([each[odd] for each in left], [each[low[odd]] for each in columns]))
        low[odd] += 1
        odd = np.flatnonzero((low < high) & (high & 1 == 1))
        high[odd] -= 1
        _put(right, odd, merge([each[high[odd]] for each in columns], [each[odd] for each in right]))
        end = len(columns[0]) // 2 * 2
        columns = merge([each[0:end:2] for each in columns], [each[1:end:2] for each in columns])
        low, high = low >> 1, high >> 1
    return merge(left, right)


def _put(columns: Sequence[NDArray[Any]], places: Places, values: Sequence[NDArray[Any]]) -> None:
    for column, each in zip(columns, values, strict=True):
        column[places] = each
