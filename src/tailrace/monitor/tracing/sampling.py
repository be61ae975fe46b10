"""Which calls are traced: those that were sampled when they came, and what is seen at the end to have gone badly.

What was slow, degraded or has failed is what a person looks for, so it is kept whatever the rate; up to a bound a
second, since all of it may be so at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tailrace.deadline import NS_PER_S
from tailrace.monitor.predictions import CallFacts, Predictions
from tailrace.monitor.tracing.ids import is_sampled

SLOW_SHARE: Final = 0.5
"""Of its budget, beyond which a call is slow."""
BAD_PER_S_MAX: Final = 100
"""Calls a second that are kept for how they ended alone."""
SAMPLED_PER_S_MAX: Final = 500
"""Calls a second that are kept since they were sampled."""
LATE_CALLS: Final = 4_096
LATE_CALLS_MIN: Final = 1_000
LATE_QUANTILE: Final = 0.99


class Kept(NamedTuple):
    """A call that is traced. call: its place; request: that of its first request. reasons: why it is kept."""

    call: int
    request: int
    reasons: tuple[str, ...]


class Allowance:
    """So many a second, and as many at once."""

    def __init__(self, per_s: int, now_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._per_s, self._now_ns = per_s, now_ns
        self._left = float(per_s)
        self._seen_ns = now_ns()

    def take(self) -> bool:
        """Return whether there is one more."""
        now_ns = self._now_ns()
        self._left = min(self._left + (now_ns - self._seen_ns) * self._per_s / NS_PER_S, self._per_s)
        self._seen_ns = now_ns
        if self._left < 1:
            return False
        self._left -= 1
        return True


class LateTimes:
    """The times of late of one pipeline: what its slowest hundredth is beyond."""

    def __init__(self) -> None:
        self._times = np.zeros(LATE_CALLS, np.int64)
        self._count = 0
        self.edge_ns = np.inf

    def add(self, times_ns: NDArray[np.int64]) -> None:
        """Take in some times; the oldest are forgotten."""
        before = self._count // LATE_CALLS_MIN
        places = (self._count + np.arange(len(times_ns))) % LATE_CALLS
        self._times[places] = times_ns
        self._count += len(times_ns)
        if self._count // LATE_CALLS_MIN > before:
            self.edge_ns = float(np.quantile(self._times[: min(self._count, LATE_CALLS)], LATE_QUANTILE))


class TailSampler:
    """Chooses the calls that are traced. share: of those that nobody has decided on. budgets_ns: by pipeline."""

    def __init__(
        self, share: float, budgets_ns: Mapping[str, int], now_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self.share = share
        self._budgets_ns = budgets_ns
        self._late: dict[str, LateTimes] = {name: LateTimes() for name in budgets_ns}
        self._bad, self._sampled = Allowance(BAD_PER_S_MAX, now_ns), Allowance(SAMPLED_PER_S_MAX, now_ns)

    def choose(self, found: Predictions, calls: CallFacts) -> tuple[list[Kept], int]:
        """Return the calls that are traced, in their order, and how many were not for want of an allowance."""
        places, first = np.unique(calls.request_call, return_index=True)
        reasons = self._reasons(found, calls, places, first)
        kept, beyond = [], 0
        for call, request in zip(places.tolist(), first.tolist(), strict=True):
            parent = calls.parents[call]
            sampled = is_sampled(found.request_ids[request], parent, self.share)
            why = reasons.get(call, ())
            if not (sampled or why):
                continue
            if (sampled and self._sampled.take()) or (why and self._bad.take()):
                kept.append(Kept(call, request, (*(("caller" if parent else "rate",) if sampled else ()), *why)))
            else:
                beyond += 1
        return kept, beyond

    def _reasons(
        self, found: Predictions, calls: CallFacts, places: NDArray[np.int64], first: NDArray[np.int64]
    ) -> dict[int, tuple[str, ...]]:
        """Return what went badly, by the place of the call; most are not there."""
        whole_ns = found.whole_ns[first]
        slow = places[whole_ns > self._slow_ns(found.pipeline, whole_ns)]
        row_call = calls.request_call[found.places] if found.degraded.any() or found.failed.any() else None
        degraded = set() if row_call is None else set(row_call[found.degraded != 0].tolist())
        failed = {calls.request_call[place] for place, error in enumerate(found.errors) if error}
        if row_call is not None:
            failed |= set(row_call[found.failed].tolist())
        names = (("failed", failed), ("degraded", degraded), ("slow", set(slow.tolist())))
        bad = set[int]().union(*(those for _, those in names))
        return {call: tuple(name for name, those in names if call in those) for call in bad}

    def _slow_ns(self, pipeline: str, whole_ns: NDArray[np.int64]) -> float:
        """Return what a call is slow beyond, and take in the times of these."""
        budget_ns = self._budgets_ns.get(pipeline)
        if budget_ns is None:  # of a release that this process does not know
            return np.inf
        late = self._late[pipeline]
        edge_ns = late.edge_ns
        late.add(whole_ns)
        return min(edge_ns, budget_ns * SLOW_SHARE)
