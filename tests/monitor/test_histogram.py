"""Histograms: edges, counting, quantiles, and their algebra."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.deadline import NS_PER_MS, NS_PER_S
from tailrace.monitor.histogram import HIGHEST_NS, LOWEST_NS, Histogram, edges_ns, export_edges

BUDGET_NS = 50 * NS_PER_MS
EDGES = edges_ns(BUDGET_NS)

budgets_ns = st.integers(10_000, 60 * NS_PER_S)
samples_ns = st.lists(st.integers(0, 40 * NS_PER_S), max_size=60)


def histogram_of(values: list[int]) -> Histogram:
    """Return a histogram of the values."""
    histogram = Histogram(EDGES)
    for value in values:
        histogram.observe(value)
    return histogram


@given(budgets_ns)
def test_edges_contain_the_budget_exactly(budget_ns: int) -> None:
    """Edges ascend, hold the budget itself, and reach from 1 µs to 30 s or to four budgets."""
    edges = edges_ns(budget_ns)
    assert budget_ns in edges
    assert list(edges) == sorted(set(edges))
    assert edges[0] == LOWEST_NS
    assert edges[-1] >= max(HIGHEST_NS, 4 * budget_ns - 1)
    assert len(edges) <= 2_100


@given(budgets_ns)
def test_edges_are_within_a_percent_up_to_eight_budgets(budget_ns: int) -> None:
    """A bucket is at most 1% wide up to eight budgets, 4% beyond (rounding to nanoseconds aside)."""
    edges = edges_ns(budget_ns)
    for low, high in pairwise(edges):
        width = 1.0097 if high <= 8 * budget_ns else 1.0393
        assert high <= low * width + 2


def test_edges_of_no_budget_are_refused() -> None:
    """A budget of 0 has no edges."""
    with pytest.raises(ValueError, match="above 0"):
        edges_ns(0)


def test_edge_at_budget_counts_exactly_what_is_within() -> None:
    """A value of exactly the budget is within it; one nanosecond more is not."""
    histogram = histogram_of([BUDGET_NS - 1, BUDGET_NS, BUDGET_NS + 1])
    assert histogram.count_up_to(BUDGET_NS) == 2


def test_count_up_to_a_value_that_is_no_edge_is_refused() -> None:
    """A count that would be a guess is an error."""
    with pytest.raises(ValueError, match="not in"):
        histogram_of([1]).count_up_to(BUDGET_NS + 1)


def test_observe_with_count_weighs_the_value() -> None:
    """One value counted 3 times is three values, in the buckets and in the sum."""
    histogram = Histogram(EDGES)
    histogram.observe(7_000, 3)
    assert histogram.cells == histogram_of([7_000] * 3).cells
    assert (histogram.count, histogram.sum) == (3, 21_000)


@given(samples_ns, budgets_ns)
def test_rebin_keeps_count_and_sum(values: list[int], budget_ns: int) -> None:
    """Moving to other edges loses nothing, and moves no value down by a bucket."""
    histogram = histogram_of(values)
    moved = histogram.rebin(edges_ns(budget_ns))
    assert (moved.count, moved.sum) == (histogram.count, histogram.sum)
    if values and max(values) <= EDGES[-1]:
        assert moved.quantile(1.0) >= max(values) * 0.999 - 2 or moved.quantile(1.0) == moved.edges[-1]


@given(st.lists(st.integers(0, EDGES[-1]), min_size=1, max_size=200), st.floats(0, 1))
def test_quantile_lies_in_the_bucket_of_its_rank(values: list[int], q: float) -> None:
    """The estimate shares a bucket with the value of that rank."""
    ranked = sorted(values)
    true_value = ranked[max(math.ceil(q * len(values)), 1) - 1]
    high = next(edge for edge in EDGES if true_value <= edge)
    low = max((edge for edge in EDGES if edge < true_value), default=0)
    assert low <= histogram_of(values).quantile(q) <= high


@given(st.lists(st.integers(LOWEST_NS + 1, 8 * BUDGET_NS), min_size=1, max_size=200), st.floats(0, 1))
def test_quantile_is_within_a_percent_of_the_value(values: list[int], q: float) -> None:
    """Whatever the values are, up to eight budgets."""
    true_value = sorted(values)[max(math.ceil(q * len(values)), 1) - 1]
    assert abs(histogram_of(values).quantile(q) - true_value) <= 0.01 * true_value + 1


def test_quantile_of_nothing_is_nan() -> None:
    """An empty histogram has no quantile."""
    assert math.isnan(Histogram(EDGES).quantile(0.5))


def test_quantile_above_the_last_edge_is_the_last_edge() -> None:
    """What is longer than the longest edge is told as at least that."""
    assert histogram_of([10 * EDGES[-1]]).quantile(0.99) == EDGES[-1]


@given(budgets_ns)
def test_export_edges_are_few_and_hold_the_budget(budget_ns: int) -> None:
    """The export has at most 50 buckets, ascending, among them the budget and the last edge."""
    edges = edges_ns(budget_ns)
    positions = export_edges(edges, budget_ns)
    assert positions == sorted(set(positions))
    assert len(positions) <= 50
    assert {edges.index(budget_ns), len(edges) - 1} <= set(positions)


def test_histogram_of_wrong_cells_is_refused() -> None:
    """Cells that do not fit the edges are an error at once."""
    with pytest.raises(ValueError, match="cells"):
        Histogram(EDGES, [0] * len(EDGES))
