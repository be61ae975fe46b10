"""Before traffic: batches of sample requests through the five layers, until all is warm and its cost known."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf
from typing import Any, Final

from tailrace.compile.samples import Samples
from tailrace.deadline import LAYERS, NS_PER_MS, Clock
from tailrace.engine import answer
from tailrace.plan import Cost, Plan

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


async def warm_up(plan: Plan, clock: Clock) -> tuple[Plan, tuple[LayerTimes, ...]]:
    """Run sample batches of every size; return the plan with its cost, and each layer's times for a single call."""
    samples, tried = Samples(plan), replace(plan, features=plan.features.for_samples())
    row_ns = inf
    marks: list[list[int]] = []
    for size in SIZES:
        requests = [samples.request(seed) for seed in range(size)]
        rows = sum(map(samples.rows, requests))
        if size > 1 and rows > plan.inference.rows_best:
            continue
        marks = await _measure(tried, samples, requests, clock)
        wholes = sorted(each[-1] - each[0] for each in marks)
        row_ns = min(row_ns, wholes[len(wholes) // 2] / max(rows, 1))
    cost = Cost(p95_ns=_quantile(wholes, 0.95), least_ns=_quantile(wholes, 0.5), row_ns=row_ns)
    spent = [sorted(each[i + 1] - each[i] for each in marks) for i in range(len(LAYERS))]
    times = tuple(
        LayerTimes(layer, budget_ns, _quantile(layer_times, 0.5), _quantile(layer_times, 0.99))
        for layer, budget_ns, layer_times in zip(LAYERS, plan.budget.layers_ns, spent, strict=True)
    )
    return replace(plan, cost=cost), times


async def _measure(plan: Plan, samples: Samples, requests: list[Any], clock: Clock) -> list[list[int]]:
    """Answer batches of a call for each request for a while; return the marks of each."""
    now_ns: Callable[[], int] = clock.now_ns
    marks: list[list[int]] = []
    end_ns = now_ns() + LIMIT_NS
    while not marks or (len(marks) < ROUNDS_MAX and now_ns() < end_ns):
        start_ns = now_ns()
        batch = samples.batch(requests, start_ns, start_ns + plan.budget.total_ns)
        batch.suspends = plan.suspends(sum(map(samples.rows, requests)))
        await answer(plan, batch, now_ns)
        marks.append(batch.marks_ns)
        if batch.suspends:
            await asyncio.sleep(0)
    return marks


def _quantile(ordered: list[int], q: float) -> int:
    return ordered[min(int(len(ordered) * q), len(ordered) - 1)]
