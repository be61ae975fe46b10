"""The algebra of lanes: entries may be merged in whatever groups, and the same comes out."""

from __future__ import annotations

import math
import statistics
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.features.lanes import (
    NO_TIME_NS,
    WHOLE_MAX,
    Columns,
    CountLane,
    ExtremeLane,
    Lane,
    MomentLane,
    MomentsLane,
    SumLane,
)

LANES: list[Any] = [
    CountLane(), SumLane(2), SumLane(None), ExtremeLane(is_max=False), ExtremeLane(is_max=True), MomentsLane(),
    MomentLane(is_latest=True), MomentLane(is_latest=False),
]  # fmt: skip
IN_ANY_ORDER = LANES[:6]
CENTS = st.lists(st.tuples(st.integers(-(10**9), 10**9), st.booleans()), min_size=1, max_size=40)


def prepared(lane: Lane, events: list[tuple[int, bool]]) -> Columns:
    """Return the entries of events: each an amount in cents, and whether it counts."""
    values = np.array([cents / 100 for cents, _ in events])
    counted = np.array([counts for _, counts in events], np.bool_)
    return lane.prepare(values, counted, np.arange(len(events)) * 1_000 - 3)


def merged(lane: Lane, columns: Columns, bounds: list[int]) -> Columns:
    """Return the entries of ranges that lie side by side."""
    return lane.merge(columns, np.array(bounds[:-1], np.intp), np.array(bounds[1:], np.intp))


def assert_alike(lane: Lane, one: Columns, other: Columns) -> None:
    """See that two lanes' entries are equal: whole numbers exactly, floats but for rounding."""
    for column, same in zip(one, other, strict=True):
        if column.dtype.kind == "f" and not isinstance(lane, ExtremeLane | MomentLane):
            np.testing.assert_allclose(column, same, rtol=1e-9, atol=1e-6)
        else:
            assert column.tolist() == same.tolist()


@pytest.mark.parametrize("lane", LANES, ids=repr)
@given(events=CENTS, data=st.data())
def test_lane_merges_in_any_groups(lane: Lane, events: list[tuple[int, bool]], data: st.DataObject) -> None:
    """Merging entries group by group, empty groups among them, and then the groups, is merging them at once."""
    columns, count = prepared(lane, events), len(events)
    cuts = sorted(data.draw(st.lists(st.integers(0, count), max_size=6)))
    groups = merged(lane, columns, [0, *cuts, count])
    at_once = merged(lane, columns, [0, count])
    assert_alike(lane, merged(lane, groups, [0, len(cuts) + 1]), at_once)


@pytest.mark.parametrize("lane", IN_ANY_ORDER, ids=repr)
@given(events=CENTS, seed=st.integers(0, 1_000))
def test_lane_merges_in_any_order(lane: Lane, events: list[tuple[int, bool]], seed: int) -> None:
    """All lanes but those of the latest and the earliest do not care which entry comes first."""
    columns = prepared(lane, events)
    order = np.random.default_rng(seed).permutation(len(events))
    shuffled = [column[order] for column in columns]
    assert_alike(lane, merged(lane, shuffled, [0, len(events)]), merged(lane, columns, [0, len(events)]))


@pytest.mark.parametrize("lane", LANES, ids=repr)
def test_lane_of_nothing_changes_nothing(lane: Lane) -> None:
    """The entry of an empty range, and of an event that does not count, is one of nothing."""
    columns = prepared(lane, [(0, False), (250, True), (0, False), (-100, True), (0, False)])
    alone = prepared(lane, [(250, True), (-100, True)])
    expected = merged(lane, alone, [0, 2])
    if isinstance(lane, MomentLane):  # whose times differ
        expected, columns = [expected[1]], [merged(lane, columns, [0, 5])[1]]
        assert_alike(lane, columns, expected)
        return
    assert_alike(lane, merged(lane, columns, [0, 5]), expected)
    assert_alike(lane, merged(lane, columns, [0, 0]), merged(lane, columns, [2, 3]))


@given(st.lists(st.integers(0, 10**11), min_size=2, max_size=60))
def test_sum_with_decimals_is_exact(cents: list[int]) -> None:
    """Money is added in whole cents, where floats would be off by some."""
    lane = SumLane(2)
    (total,) = merged(lane, prepared(lane, [(each, True) for each in cents]), [0, len(cents)])
    assert total.tolist() == [sum(cents)]


@pytest.mark.parametrize(("value", "expected"), [(1e300, WHOLE_MAX), (-1e300, -WHOLE_MAX), (1.7e308, WHOLE_MAX)])
def test_sum_of_a_value_beyond_its_decimals_stays_whole(value: float, expected: int) -> None:
    """A value that no exact sum can hold is taken as the greatest that it can, without a warning."""
    (column,) = SumLane(2).prepare(np.array([value]), np.array([True]), np.array([0]))
    assert column.tolist() == [expected]


@given(st.lists(st.integers(-1_000, 1_000), min_size=2, max_size=40), st.sampled_from([0.0, 1e9, -1e12]))
def test_moments_keep_their_digits_far_from_zero(values: list[int], shift: float) -> None:
    """The variance of values that are large and alike is that of their differences."""
    lane = MomentsLane()
    numbers = np.array(values) + shift
    columns = lane.prepare(numbers, np.ones(len(values), np.bool_), np.zeros(len(values), np.int64))
    halves = merged(lane, columns, [0, len(values) // 2, len(values)])
    counts, means, squares = merged(lane, halves, [0, 2])
    assert counts.tolist() == [len(values)]
    assert means[0] == pytest.approx(shift + statistics.fmean(values), rel=1e-12, abs=1e-9)
    assert math.sqrt(squares[0] / (len(values) - 1)) == pytest.approx(statistics.stdev(values), rel=1e-5, abs=1e-3)


def test_moments_of_huge_values_warn_nobody() -> None:
    """A square that no float holds is infinite, and costs no other entity anything."""
    lane = MomentsLane()
    columns = lane.prepare(np.array([1e200, -1e200, 1.0, 3.0]), np.ones(4, np.bool_), np.zeros(4, np.int64))
    counts, _, squares = merged(lane, columns, [0, 2, 4])
    assert counts.tolist() == [2, 2]
    assert squares[1] == 2.0


def test_moment_is_the_latest_or_the_earliest_that_counts() -> None:
    """Entries are in order, so that the place decides and not the time alone; of nothing it is never."""
    values, counted = np.array([1.0, 2.0, 3.0, 4.0]), np.array([False, True, True, False])
    times = np.array([5, 7, 7, 9])
    for is_latest, value in ((True, 3.0), (False, 2.0)):
        lane = MomentLane(is_latest=is_latest)
        columns = lane.prepare(values, counted, times)
        found_times, found = merged(lane, columns, [0, 4])
        assert (found_times.tolist(), found.tolist()) == ([7], [value])
        nothing, _ = merged(lane, columns, [3, 4])
        assert nothing.tolist() == [NO_TIME_NS]
    empty = MomentLane(is_latest=True).merge((np.zeros(0, np.int64), np.zeros(0)), np.array([0]), np.array([0]))
    assert empty[0].tolist() == [NO_TIME_NS]
