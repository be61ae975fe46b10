"""Sums, extremes and searches over ranges of sorted arrays: the arithmetic that windows are made of.

Ranges are given as two arrays, `begins` and `ends`, of places in an array; range i is [begins[i], ends[i]), and may be
empty. They may overlap, as windows do.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Places = NDArray[np.intp]


def add_whole(values: NDArray[Any], begins: Places, ends: Places) -> NDArray[np.int64]:
    """Return the sum of each range of whole numbers: exact, as long as it fits 64 bits itself."""
    sums = np.zeros(len(values) + 1, np.int64)
    np.cumsum(values, out=sums[1:])
    return sums[ends] - sums[begins]


def reduce_ranges(function: np.ufunc, values: NDArray[Any], begins: Places, ends: Places, empty: float) -> NDArray[Any]:
    """Return what a function such as np.add makes of each range, `empty` for an empty one.

    Each is reduced by itself: a huge value in one entity's range costs no precision in another's.
    """
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
