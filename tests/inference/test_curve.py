from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.deadline import NS_PER_MS, NS_PER_US, Clock
from tailrace.inference.curve import ALIKE, SIZES, CostCurve, measure_curve

curves = st.lists(st.integers(1, 10**9), min_size=len(SIZES), max_size=len(SIZES)).map(
    lambda costs: CostCurve(SIZES, tuple(costs), tuple(cost + 1 for cost in costs))
)


class ModelClock:
    """A clock that only a model moves."""

    def __init__(self) -> None:
        self.time_ns = 0

    def now_ns(self) -> int:
        """Return the time so far."""
        return self.time_ns

    def wall_ns(self) -> int:
        """Return the time so far."""
        return self.time_ns


class TimedModel:
    """A model whose calls take a known time."""

    def __init__(self, clock: ModelClock, cost_ns: Any) -> None:
        self.clock, self.cost_ns, self.calls = clock, cost_ns, []

    def sample_feeds(self, rows: int, *, seed: int = 0) -> dict[str, Any]:
        """Return rows that tell their batch."""
        return {"x": np.full((rows, 1), seed)}

    def predict(self, feeds: Any) -> Any:
        """Take the time."""
        rows = len(feeds["x"])
        self.calls.append(rows)
        self.clock.time_ns += self.cost_ns(rows)
        return np.zeros(rows)


def by_the_clock(clock: Clock) -> Callable[[Callable[[Any], Any], Any], int]:
    """Return what times a call by a clock that is moved by hand alone."""

    def time_call(predict: Callable[[Any], Any], feeds: Any) -> int:
        start_ns = clock.now_ns()
        predict(feeds)
        return clock.now_ns() - start_ns

    return time_call


@given(curves, st.integers(1, 256), st.integers(1, 10**9))
def test_curve_best_rows_is_within_the_limit_and_cheapest(curve: CostCurve, rows: int, limit_ns: int) -> None:
    """No measured size within the limit costs clearly less a row than the best, no larger one as little; else 1 row."""
    best = curve.best_rows(limit_ns)
    within = [size for size in SIZES if curve.cost_ns(size) <= limit_ns]
    if not within:
        assert best == 1
        return
    assert best in within
    per_row = {size: curve.cost_ns(size) / size for size in within}
    assert best == max(size for size, cost in per_row.items() if cost <= ALIKE * min(per_row.values()))


@given(curves, st.integers(1, 10**9), st.integers(0, 10**9))
def test_curve_best_cost_per_row_falls_with_the_limit(curve: CostCurve, limit_ns: int, more_ns: int) -> None:
    """With more time the cost per row of the best size never clearly rises, once a size is within the limit."""
    if limit_ns < min(curve.costs_ns):
        return
    small, large = curve.best_rows(limit_ns), curve.best_rows(limit_ns + more_ns)
    assert curve.cost_ns(large) / large <= ALIKE * curve.cost_ns(small) / small


def test_curve_best_rows_are_the_same_after_a_bad_moment() -> None:
    """A size that seemed a sixth dearer than it is stays the best one, where it is a tenth cheaper than a smaller."""
    costs = CostCurve((1, 16, 32), (1_400, 2_400, 4_300), (1_400, 2_400, 4_300))
    noisy = CostCurve((1, 16, 32), (1_400, 2_400, 5_100), (1_400, 2_400, 5_100))
    assert costs.best_rows() == noisy.best_rows() == 32


@given(curves, st.integers(1, 1000))
def test_curve_cost_stays_between_its_measured_neighbours(curve: CostCurve, rows: int) -> None:
    """Interpolation invents no time outside what was measured; beyond the last size it is in proportion."""
    cost = curve.cost_ns(rows)
    if rows >= SIZES[-1]:
        assert cost == curve.costs_ns[-1] * rows // SIZES[-1]
        return
    low = max(index for index, size in enumerate(SIZES) if size <= rows)
    ends = curve.costs_ns[low : low + 2]
    assert min(ends) <= cost <= max(ends)


@pytest.mark.parametrize("sizes", [(), (0, 1), (2, 1), (1, 1)])
def test_curve_of_unordered_sizes_is_refused(sizes: tuple[int, ...]) -> None:
    """Sizes ascend from one row on."""
    with pytest.raises(ValueError, match="ascending"):
        CostCurve(sizes, sizes, sizes)


def test_measured_curve_is_the_models_cost() -> None:
    """Every size is warmed and measured, with different batches in turn."""
    clock = ModelClock()
    model = TimedModel(clock, lambda rows: 10 * NS_PER_US + rows * NS_PER_US)
    curve = measure_curve(model, clock=clock, stopwatch=by_the_clock)
    assert curve.sizes == SIZES
    assert curve.costs_ns == tuple((10 + rows) * NS_PER_US for rows in SIZES)
    assert curve.cost_ns(100) == 110 * NS_PER_US
    assert curve.best_rows(50 * NS_PER_US) == 32
    assert clock.time_ns < 150 * NS_PER_MS


def test_measured_curve_never_falls_with_the_size() -> None:
    """A size that something else disturbed takes the time of the next larger one."""
    clock = ModelClock()
    model = TimedModel(clock, lambda rows: NS_PER_MS if rows == 4 else rows * 10 * NS_PER_US)
    curve = measure_curve(model, clock=clock, stopwatch=by_the_clock)
    assert curve.cost_ns(4) == curve.cost_ns(8) == 80 * NS_PER_US
    assert list(curve.costs_ns) == sorted(curve.costs_ns)


def test_measured_curve_of_a_slow_model_ends_early() -> None:
    """A model of 30 ms a row is measured at the sizes that fit, and extrapolated beyond."""
    clock = ModelClock()
    curve = measure_curve(
        TimedModel(clock, lambda rows: 30 * NS_PER_MS * rows),
        clock=clock,
        stopwatch=by_the_clock,
        limit_ns=120 * NS_PER_MS,
    )
    assert curve.sizes == (1,)
    assert curve.cost_ns(4) == 120 * NS_PER_MS
    assert clock.time_ns <= 200 * NS_PER_MS
