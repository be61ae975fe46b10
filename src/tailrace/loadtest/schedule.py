"""When each shot is due: fixed before the run, and the same for the same plan and seed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tailrace.deadline import NS_PER_S
from tailrace.loadtest.plan import LoadPlan


def build_schedule(plan: LoadPlan) -> NDArray[np.int64]:
    """Return the due time of every shot: int64 nanoseconds from the start, shape (shots,), ascending, in [0, duration).

    "constant": shot i is due at i / rate. "poisson": a Poisson process of that rate, given its number of arrivals:
    sorted uniform times (Ross, Introduction to Probability Models, 5.3.5). So both send exactly `plan.shots`.
    """
    if plan.arrival == "constant":
        return np.floor(np.arange(plan.shots, dtype=np.float64) * (NS_PER_S / plan.rate)).astype(np.int64)
    arrivals = np.random.default_rng(plan.seed).random(plan.shots)
    arrivals.sort()
    return (arrivals * (plan.duration_s * NS_PER_S)).astype(np.int64)
