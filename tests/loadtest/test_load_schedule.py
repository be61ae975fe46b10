"""Schedules are fixed in advance: count, order, spacing."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tailrace.deadline import NS_PER_S
from tailrace.loadtest.plan import LoadPlan
from tailrace.loadtest.schedule import build_schedule

URL = "http://127.0.0.1:1/"
RATES = st.floats(0.5, 50_000)
DURATIONS = st.floats(0.1, 2.0)


def make_plan(
    rate: float, duration_s: float, arrival: Literal["constant", "poisson"] = "constant", seed: int = 0
) -> LoadPlan:
    """Return a plan of which only the schedule matters."""
    return LoadPlan(URL, rate=max(rate, 2 / duration_s), duration_s=duration_s, arrival=arrival, seed=seed)


@given(rate=RATES, duration_s=DURATIONS)
@settings(max_examples=50, deadline=None)
def test_constant_schedule_spaces_shots_evenly(rate: float, duration_s: float) -> None:
    """Shot i is due at i / rate, to the nanosecond, without drift."""
    plan = make_plan(rate, duration_s)
    due_ns = build_schedule(plan)
    assert len(due_ns) == plan.shots
    assert due_ns[0] == 0
    assert np.abs(due_ns - np.arange(plan.shots) * (NS_PER_S / plan.rate)).max() <= 1


@given(rate=RATES, duration_s=DURATIONS, seed=st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_poisson_schedule_is_sorted_inside_duration_and_repeatable(rate: float, duration_s: float, seed: int) -> None:
    """A Poisson schedule has exactly its shots, in order, within the run, the same for the same seed."""
    plan = make_plan(rate, duration_s, "poisson", seed)
    due_ns = build_schedule(plan)
    assert len(due_ns) == plan.shots
    assert (np.diff(due_ns) >= 0).all()
    assert due_ns[0] >= 0
    assert due_ns[-1] < duration_s * NS_PER_S
    assert (build_schedule(plan) == due_ns).all()


@pytest.mark.parametrize("seed", range(5))
def test_poisson_gaps_are_exponential(seed: int) -> None:
    """The gaps of independent arrivals have mean and deviation 1 / rate, and e^-1 of them are above their mean."""
    gaps_ns = np.diff(build_schedule(make_plan(10_000, 10, "poisson", seed)))
    mean_ns = NS_PER_S / 10_000
    assert gaps_ns.mean() == pytest.approx(mean_ns, rel=0.01)
    assert gaps_ns.std() == pytest.approx(mean_ns, rel=0.03)
    assert (gaps_ns > mean_ns).mean() == pytest.approx(np.exp(-1), abs=0.01)


def test_poisson_schedule_differs_by_seed() -> None:
    """Another seed draws other arrivals."""
    one, other = (build_schedule(make_plan(1_000, 1, "poisson", seed)) for seed in (1, 2))
    assert (one != other).any()
