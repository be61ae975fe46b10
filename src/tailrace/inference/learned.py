"""What a model's calls cost, learned while serving: the first moment may be unlike the rest.

A worker that takes the place of another measures its model beside busy siblings; a processor changes its speed. So each
call moves the curve of the warm-up a little: the median of each size up by 2% where a call took longer and down where
it took less, the 95th percentile likewise in proportion 19 to 1 (a stochastic approximation of a quantile, Robbins and
Monro 1951). A stall moves it as little as any other call, and a factor of two is learned in 35 calls.

A size that is not run follows the pace of the others: what a call takes in parts of what the warm-up says of its size,
learned likewise. It is one number that stays near the truth, so that a size follows it back as far as it followed it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

from tailrace.inference.curve import CostCurve, without_noise

STEP: Final = 0.02
NEIGHBOUR_SHARE: Final = 0.25
"""Of a change, on a logarithmic scale, that the other sizes take part in: what is never run while it is thought too
dear would never be learned."""
CALLS_PER_CURVE: Final = 32
"""Calls between two curves that are drawn from what was learned."""
UP: Final = 1 + STEP
DOWN: Final = 1 - STEP
P95_UP: Final = 1 + 1.9 * STEP
P95_DOWN: Final = 1 - 0.1 * STEP
PACE_MAX: Final = 1_000.0


class LearnedCosts:
    """A cost curve that follows what calls take. `curve` is the last one drawn."""

    def __init__(self, curve: CostCurve) -> None:
        self.curve = curve
        self._sizes = curve.sizes
        self._last = len(curve.sizes) - 1
        self._first_ns = [max(float(cost), 1.0) for cost in curve.costs_ns]  # a clock may stand still
        self._costs_ns = list(self._first_ns)
        self._p95s_ns = [max(float(cost), 1.0) for cost in curve.p95s_ns]
        self._pace = 1.0
        self._paces = [1.0] * len(curve.sizes)  # when each size was run last
        self._run: set[int] = set()
        self._calls = 0

    def learn(self, rows: int, took_ns: int) -> bool:
        """Take in one call of the model; return whether it was the one that draws a new curve."""
        at = min(bisect_left(self._sizes, rows), self._last)
        per_size_ns = took_ns * self._sizes[at] / rows if rows > self._sizes[at] else took_ns
        costs_ns, p95s_ns = self._costs_ns, self._p95s_ns
        costs_ns[at] = max(costs_ns[at] * (UP if per_size_ns > costs_ns[at] else DOWN), 1.0)
        p95s_ns[at] = max(p95s_ns[at] * (P95_UP if per_size_ns > p95s_ns[at] else P95_DOWN), 1.0)
        pace = self._pace * (UP if per_size_ns > self._first_ns[at] * self._pace else DOWN)
        self._paces[at] = self._pace = min(max(pace, 1 / PACE_MAX), PACE_MAX)
        self._run.add(at)
        self._calls += 1
        if self._calls < CALLS_PER_CURVE:
            return False
        self._calls = 0
        self._draw()
        return True

    def _draw(self) -> None:
        """Draw the curve again."""
        costs_ns, p95s_ns = self._drawn(self._costs_ns), self._drawn(self._p95s_ns)
        self.curve = CostCurve(self._sizes, costs_ns, tuple(map(max, p95s_ns, costs_ns)))
        self._run.clear()

    def _drawn(self, known_ns: Sequence[float]) -> tuple[int, ...]:
        """Return the times of each size now, ascending; `known_ns`: when it was run last.

        A size that was not run since the last curve takes no less than a smaller one that was.
        """
        times_ns: list[int] = []
        least_ns = 1.0
        for index, time_ns in enumerate(known_ns):
            if index in self._run:
                least_ns = max(least_ns, time_ns)
                times_ns.append(int(time_ns))
            else:
                followed_ns = time_ns * (self._pace / self._paces[index]) ** NEIGHBOUR_SHARE
                times_ns.append(int(max(least_ns, followed_ns)))
        return without_noise(tuple(times_ns))
