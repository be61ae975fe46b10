"""Before traffic: batches of sample requests through the five layers, until all is warm and its cost known."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Final

from tailrace.deadline import LAYERS, NS_PER_MS, Clock
from tailrace.engine import answer
from tailrace.plan import Cost, Plan
from tailrace.types import Batch, Call

SIZES: Final = (1, 1, 4, 16, 64, 1)
"""Batch sizes, in calls, of which no larger ones than serving makes are run: what ran out of time would be measured
together with all that comes behind it on the inference thread. The last one, when all is warm, is what one call costs.
"""
ROUNDS_MAX: Final = 50
LIMIT_NS: Final = 60 * NS_PER_MS
"""For each size."""


@dataclass(frozen=True, slots=True)
class LayerTimes:
    """A layer's share of a batch of one call, measured at warm-up."""

    layer: str
    budget_ns: int
    p50_ns: int
    p99_ns: int


async def warm_up(plan: Plan, clock: Clock) -> tuple[LayerTimes, ...]:
    """Run sample batches of every size, leave the plan its cost, and return each layer's times for a single call."""
    row_ns = inf
    marks: list[list[int]] = []
    for size in SIZES:
        rows = sum(plan.rows_of(plan.decode(plan.sample_body(seed))) for seed in range(size))
        if size > 1 and rows > plan.rows_best:
            continue
        marks = await _measure(plan, size, clock)
        wholes = sorted(each[-1] - each[0] for each in marks)
        row_ns = min(row_ns, wholes[len(wholes) // 2] / max(rows, 1))
    plan.cost = Cost(p95_ns=_quantile(wholes, 0.95), least_ns=_quantile(wholes, 0.5), row_ns=row_ns)
    spent = [sorted(each[i + 1] - each[i] for each in marks) for i in range(len(LAYERS))]
    return tuple(
        LayerTimes(layer, budget_ns, _quantile(times, 0.5), _quantile(times, 0.99))
        for layer, budget_ns, times in zip(LAYERS, plan.budget.layers_ns, spent, strict=True)
    )


async def _measure(plan: Plan, size: int, clock: Clock) -> list[list[int]]:
    """Answer batches of `size` calls for a while; return the marks of each."""
    now_ns: Callable[[], int] = clock.now_ns
    bodies = [plan.sample_body(seed) for seed in range(size)]
    marks: list[list[int]] = []
    end_ns = now_ns() + LIMIT_NS
    while not marks or (len(marks) < ROUNDS_MAX and now_ns() < end_ns):
        start_ns = now_ns()
        deadline_ns = start_ns + plan.budget.total_ns
        calls = [Call(None, None, request, start_ns, deadline_ns) for request in map(plan.decode, bodies)]
        batch = Batch(calls, now_ns(), deadline_ns)
        await answer(plan, batch, now_ns)
        marks.append(batch.marks_ns)
        if plan.suspends:
            await asyncio.sleep(0)
    return marks


def _quantile(ordered: list[int], q: float) -> int:
    return ordered[min(int(len(ordered) * q), len(ordered) - 1)]
