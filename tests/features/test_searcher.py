"""Ranges: searched and reduced together, they give what they give one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tailrace.features import lanes, ranges
from tailrace.features.lanes import MomentsLane
from tailrace.features.ranges import Searcher, gallop, reduce_by_halves, search

LENGTHS = st.lists(st.integers(0, 9), min_size=1, max_size=8)


def sorted_ranges(lengths: list[int], seed: int, top: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return values, and ranges of them that are sorted, side by side with gaps."""
    random = np.random.default_rng(seed)
    bounds = np.concatenate(([0], np.cumsum(lengths)))
    values = np.concatenate([np.sort(random.integers(-top, top + 1, length)) for length in lengths])
    return values.astype(np.int64), bounds[:-1], bounds[1:]


@given(lengths=LENGTHS, seed=st.integers(0, 10**6), top=st.sampled_from([3, 10**6, 2**59]))
@settings(max_examples=150, deadline=None)
def test_searcher_finds_what_a_search_finds(lengths: list[int], seed: int, top: int) -> None:
    """Of many rows that ask of few ranges, some of which nobody asks of, and of limits beyond all values."""
    values, begins, ends = sorted_ranges(lengths, seed, top)
    random = np.random.default_rng(seed + 1)
    asked = np.flatnonzero((ends > begins) & (random.random(len(ends)) < 0.7))
    if not len(asked):
        return
    rows = np.sort(random.choice(asked, ranges.MANY + 10))
    limits = random.choice(np.concatenate((values, values + 1, [-(2**62), 2**62])), len(rows))
    searcher = Searcher(values, begins[rows], ends[rows])
    assert searcher._keys is not None
    expected = search(values, begins[rows], ends[rows], limits)
    assert searcher.places(limits).tolist() == expected.tolist()


@given(lengths=LENGTHS, seed=st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_searcher_of_ranges_in_no_order_finds_what_a_search_finds(lengths: list[int], seed: int) -> None:
    """Ranges that overlap, or come in another order, are searched one by one."""
    values, begins, ends = sorted_ranges(lengths, seed, 20)
    random = np.random.default_rng(seed)
    rows = random.integers(0, len(lengths), ranges.MANY + 10)
    limits = random.integers(-22, 22, len(rows))
    expected = search(values, begins[rows], ends[rows], limits)
    assert Searcher(values, begins[rows], ends[rows]).places(limits).tolist() == expected.tolist()


@given(lengths=LENGTHS, seed=st.integers(0, 10**6))
@settings(max_examples=100, deadline=None)
def test_gallop_finds_what_a_search_finds(lengths: list[int], seed: int) -> None:
    """Also where the place is far, at an end, or there is nothing."""
    values, begins, ends = sorted_ranges(lengths, seed, 6)
    limits = np.random.default_rng(seed).integers(-8, 9, len(begins))
    assert gallop(values, begins, ends, limits).tolist() == search(values, begins, ends, limits).tolist()


@given(count=st.integers(1, 40), seed=st.integers(0, 10**6))
@settings(max_examples=100, deadline=None)
def test_reduction_by_halves_is_the_reduction_of_each_range(count: int, seed: int) -> None:
    """Whole numbers of any overlapping ranges, empty ones among them."""
    random = np.random.default_rng(seed)
    values = random.integers(-100, 100, count).astype(np.float64)
    begins = random.integers(0, count + 1, 30)
    ends = np.minimum(begins + random.integers(0, count + 1, 30), count)
    for function, nothing in ((np.add, 0.0), (np.maximum, -np.inf)):
        found = reduce_by_halves(lambda a, b, f=function: [f(a[0], b[0])], [values], begins, ends, [nothing])[0]
        expected = [function.reduce(values[b:e], initial=nothing) for b, e in zip(begins, ends, strict=True)]
        assert found.tolist() == expected


def test_moments_by_halves_are_those_of_each_range(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many entries overlap, and whether some of them count nothing."""
    random = np.random.default_rng(4)
    lane = MomentsLane()
    counted = random.random(200) < 0.8
    columns = lane.prepare(random.normal(1e6, 1, 200), counted, np.arange(200))
    begins = random.integers(0, 200, 500)
    ends = np.minimum(begins + random.integers(0, 200, 500), 200)
    expected = lane.merge(columns, begins, ends)
    monkeypatch.setattr(lanes, "TOGETHER_MAX", 0)
    found = lane.merge(columns, begins, ends)
    assert found[0].tolist() == expected[0].tolist()
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-12)
    np.testing.assert_allclose(found[2], expected[2], rtol=1e-8, atol=1e-8)
