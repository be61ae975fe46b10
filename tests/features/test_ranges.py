"""Sums, extremes and searches over ranges, against plain Python."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tailrace.features.ranges import add_whole, first_places, last_places, reduce_ranges, search, spread

VALUES = st.lists(st.integers(-(2**40), 2**40), max_size=30)


@st.composite
def values_and_ranges(draw: st.DrawFn) -> tuple[list[int], Any, Any]:
    """Give values and ranges of them, which may be empty, overlap, and lie anywhere."""
    values = draw(VALUES)
    pairs = draw(st.lists(st.tuples(st.integers(0, len(values)), st.integers(0, len(values))), max_size=8))
    return values, np.array([min(each) for each in pairs], np.intp), np.array([max(each) for each in pairs], np.intp)


@given(values_and_ranges())
def test_ranges_are_added_exactly(given: tuple[list[int], Any, Any]) -> None:
    """Whole numbers are added without a rounding."""
    values, begins, ends = given
    expected = [sum(values[begin:end]) for begin, end in zip(begins, ends, strict=True)]
    assert add_whole(np.array(values, np.int64), begins, ends).tolist() == expected


def test_whole_sum_does_not_lose_a_range_to_another() -> None:
    """Sums of the ranges before may pass 64 bits: each range that fits them is right."""
    values = np.array([2**62, 2**62, 2**62, 7], np.int64)
    assert add_whole(values, np.array([3, 0]), np.array([4, 1])).tolist() == [7, 2**62]


@given(values_and_ranges())
def test_ranges_are_reduced_each_by_itself(given: tuple[list[int], Any, Any]) -> None:
    """The least, the greatest and the sum of each range; of an empty one what was given for it."""
    values, begins, ends = given
    parts = [values[begin:end] for begin, end in zip(begins, ends, strict=True)]
    array = np.array(values, np.float64)
    for function, plain in ((np.minimum, min), (np.maximum, max), (np.add, sum)):
        expected = [float(plain(part)) if part else -9.0 for part in parts]
        assert reduce_ranges(function, array, begins, ends, -9.0).tolist() == expected


def test_huge_value_costs_no_precision_in_another_range() -> None:
    """A float sum is not the difference of two cumulative sums."""
    values = np.array([1e300, 0.1, 0.2])
    assert reduce_ranges(np.add, values, np.array([1]), np.array([3]), 0.0).tolist() == [0.1 + 0.2]


@given(values_and_ranges())
def test_chosen_places_are_found(given: tuple[list[int], Any, Any]) -> None:
    """The first and the last chosen place of each range, -1 where it has none."""
    values, begins, ends = given
    chosen = np.array([value % 3 == 0 for value in values], np.bool_)
    places = [[place for place in range(begin, end) if chosen[place]] for begin, end in zip(begins, ends, strict=True)]
    assert first_places(chosen, begins, ends).tolist() == [each[0] if each else -1 for each in places]
    assert last_places(chosen, begins, ends).tolist() == [each[-1] if each else -1 for each in places]


@given(values_and_ranges(), st.integers(-(2**40), 2**40))
def test_search_finds_the_first_value_not_below(given: tuple[list[int], Any, Any], limit: int) -> None:
    """As `bisect_left` does in each range, which is sorted in itself."""
    values, begins, ends = given
    values = sorted(values)
    limits = np.full(len(begins), limit)
    expected = [
        next((place for place in range(begin, end) if values[place] >= limit), end)
        for begin, end in zip(begins, ends, strict=True)
    ]
    assert search(np.array(values, np.int64), begins, ends, limits).tolist() == expected


def test_search_compares_texts() -> None:
    """Ids that are texts are searched by their bytes, whatever their lengths."""
    ids = np.array([b"a", b"ab", b"b"])
    begins, ends = np.array([0, 0, 0]), np.array([3, 3, 3])
    assert search(ids, begins, ends, np.array([b"aa", b"abc", b"a"])).tolist() == [1, 2, 0]


@given(values_and_ranges())
def test_ranges_are_spread(given: tuple[list[int], Any, Any]) -> None:
    """Every place of every range, beside the number of the range."""
    _, begins, ends = given
    groups, places = spread(begins, ends)
    expected = [
        (number, place)
        for number, (begin, end) in enumerate(zip(begins, ends, strict=True))
        for place in range(begin, end)
    ]
    assert list(zip(groups.tolist(), places.tolist(), strict=True)) == expected
