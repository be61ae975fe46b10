from __future__ import annotations

import random
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.inference.curve import SIZES, CostCurve
from tailrace.inference.learned import CALLS_PER_CURVE, LearnedCosts


def line_ns(rows: int) -> int:
    """Return what a call takes of a model that costs 30 µs and 4 µs a row."""
    return 30_000 + 4_000 * rows


FIRST = CostCurve(SIZES, tuple(map(line_ns, SIZES)), tuple(line_ns(rows) * 3 // 2 for rows in SIZES))


def serve(costs: LearnedCosts, calls: Iterable[tuple[int, int]]) -> CostCurve:
    """Learn calls, each its rows and the time it took; return the curve."""
    for rows, took_ns in calls:
        costs.learn(rows, took_ns)
    return costs.curve


def ratios(curve: CostCurve, cost_ns: Callable[[int], float] = line_ns) -> list[float]:
    """Return what the curve says of each size in parts of the truth."""
    return [found_ns / cost_ns(size) for size, found_ns in zip(SIZES, curve.costs_ns, strict=True)]


@pytest.mark.parametrize("rows", [1, 16, 256])
@pytest.mark.parametrize("change", [0.5, 2.0])
def test_changed_cost_is_followed_within_some_calls(rows: int, change: float) -> None:
    """Half or twice the time is learned in 64 calls, two curves, and stays."""
    costs, took_ns = LearnedCosts(FIRST), int(line_ns(rows) * change)
    for _ in range(20):
        assert serve(costs, [(rows, took_ns)] * 2 * CALLS_PER_CURVE).cost_ns(rows) == pytest.approx(took_ns, rel=0.05)


@pytest.mark.parametrize("rows", [1, 16, 256])
def test_cost_that_changed_and_changed_back_is_as_it_was(rows: int) -> None:
    """No size, run or not, keeps a trace of a time that is over."""
    costs = LearnedCosts(FIRST)
    for _ in range(10):
        for change in (8, 1):
            serve(costs, [(rows, line_ns(rows) * change)] * 5 * CALLS_PER_CURVE)
    assert ratios(costs.curve) == pytest.approx([1] * len(SIZES), rel=0.1)


def test_curve_is_drawn_once_in_some_calls() -> None:
    """The call that draws it says so, and between two of them the curve is the same."""
    costs = LearnedCosts(FIRST)
    drawn = [costs.learn(4, 100_000) for _ in range(3 * CALLS_PER_CURVE)]
    assert [index + 1 for index, each in enumerate(drawn) if each] == [CALLS_PER_CURVE * n for n in (1, 2, 3)]


def test_stall_moves_the_curve_as_little_as_any_call() -> None:
    """A call that takes ten seconds moves its size by one step, not by its time."""
    costs = LearnedCosts(FIRST)
    serve(costs, [(8, line_ns(8) + index % 2) for index in range(CALLS_PER_CURVE - 1)])
    assert costs.learn(8, 10 * 10**9)
    assert ratios(costs.curve) == pytest.approx([1] * len(SIZES), rel=0.06)


def test_p95_is_above_the_median_as_the_times_are() -> None:
    """Of times of which one in ten is threefold, the 95th percentile is learned beside the median."""
    random_times, costs = random.Random(7), LearnedCosts(FIRST)
    times_ns = [(1, line_ns(1) * (3 if random_times.random() < 0.1 else 1) + random_times.randrange(1_000))
                for _ in range(4_000)]  # fmt: skip
    curve = serve(costs, times_ns)
    assert curve.cost_ns(1) == pytest.approx(line_ns(1), rel=0.1)
    assert curve.p95_ns(1) == pytest.approx(3 * line_ns(1), rel=0.15)


@pytest.mark.parametrize("change", [0.25, 4.0])
def test_size_that_is_not_run_follows_in_part(change: float) -> None:
    """It moves the same way as the size that is run, and not as far; both ways."""
    curve = serve(LearnedCosts(FIRST), [(64, int(line_ns(64) * change))] * 10 * CALLS_PER_CURVE)
    for rows, ratio in zip(SIZES, ratios(curve), strict=True):
        if rows != 64:
            assert min(1, change) * 0.9 <= ratio <= max(1, change) * 1.1
            assert abs(ratio - 1) > 0.1, rows


def test_size_that_is_not_run_costs_no_less_than_a_smaller_one_that_is() -> None:
    """What is known of the smaller is fresher."""
    curve = serve(LearnedCosts(FIRST), [(1, 50 * line_ns(1))] * 20 * CALLS_PER_CURVE)
    assert curve.cost_ns(1) == pytest.approx(50 * line_ns(1), rel=0.05)
    assert curve.cost_ns(16) >= curve.cost_ns(1)


def dipping_ns(rows: int) -> int:
    """Return what a call takes of a model whose loop for one row is slower than that for two."""
    return 40_000 if rows == 1 else 33_000 + 1_000 * rows


@pytest.mark.parametrize("cost_ns", [line_ns, dipping_ns], ids=["line", "dip"])
def test_sizes_that_are_not_run_stay_where_times_stay(cost_ns: Callable[[int], int]) -> None:
    """An hour of calls of a few sizes, each a little longer or shorter by chance, moves no other size away."""
    chance = random.Random(3)
    first = CostCurve(SIZES, tuple(map(cost_ns, SIZES)), tuple(map(cost_ns, SIZES)))
    calls = [
        (rows, int(cost_ns(rows) * chance.lognormvariate(0, 0.15))) for rows in chance.choices([1, 2, 4], k=60_000)
    ]
    assert ratios(serve(LearnedCosts(first), calls), cost_ns) == pytest.approx([1] * len(SIZES), rel=0.25)


def test_clock_that_stands_still_is_no_fault() -> None:
    """A test's clock gives times of none, before serving and in it; what takes time later is learned then."""
    costs = LearnedCosts(CostCurve(SIZES, (0,) * len(SIZES), (0,) * len(SIZES)))
    serve(costs, [(rows, 0) for rows in (1, 5, 300) for _ in range(10_000)])
    assert serve(costs, [(1, 20_000)] * 1_000).cost_ns(1) == pytest.approx(20_000, rel=0.1)


@given(
    st.lists(st.integers(0, 10**9), min_size=len(SIZES), max_size=len(SIZES)).map(sorted),
    st.lists(st.tuples(st.integers(1, 2_000), st.integers(0, 10**11), st.integers(1, 70)), max_size=30),
)
def test_curve_stays_ascending_whatever_is_learned(first_ns: list[int], calls: list[tuple[int, int, int]]) -> None:
    """Times never fall as the size grows, the 95th percentile is never under the median, and none is of no time."""
    costs = LearnedCosts(CostCurve(SIZES, tuple(first_ns), tuple(first_ns)))
    for rows, took_ns, times in calls:
        for _ in range(times):
            costs.learn(rows, took_ns)
        curve = costs.curve
        assert list(curve.costs_ns) == sorted(curve.costs_ns)
        assert list(curve.p95s_ns) == sorted(curve.p95s_ns)
        assert all(p95_ns >= cost_ns for p95_ns, cost_ns in zip(curve.p95s_ns, curve.costs_ns, strict=True))
        assert curve.sizes == SIZES
        if curve.costs_ns != tuple(first_ns):
            assert curve.costs_ns[0] >= 1
