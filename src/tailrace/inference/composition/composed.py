"""What all stages that are made of others have in common: their members' threads and costs, and what they leave behind.

What a composition costs is what its members cost, which they go on learning. So where its batches run is decided again
now and then, and not once a batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tailrace.batch import Batch
from tailrace.deadline import Budget
from tailrace.inference.curve import SIZES, CostCurve, without_noise
from tailrace.inference.inline import OVERHEAD_NS, ROWS_INLINE_MAX, inline_ns_of, slice_ns_of
from tailrace.inference.scored import Scored
from tailrace.inference.stage import Stage

DECIDE_EVERY: Final = 64
"""Calls between two looks at what the members have learned."""


class Composed(ABC):
    """A stage that is made of others. Satisfies `Stage` once it says what a call costs, and how it scores.

    in_flight_max: the least of the members that are waited for; one where none is. A model that runs on the loop holds
    up no other batch, however many wait for a server far away. It follows what is learned: a model that was measured in
    a bad moment does not hold back the others for ever.
    """

    learns = False
    second: Final = None

    def __init__(self, name: str, members: Sequence[Stage], budget: Budget) -> None:
        self.name = name
        self.members = tuple(members)
        self.in_flight_max = 1
        self.rows_inline_max = 0
        self.rows_best = 1
        self._slice_ns = slice_ns_of(budget)
        self._inline_ns = inline_ns_of(budget)
        self._calls = 0
        self._decide()

    @abstractmethod
    def cost_ns(self, rows: int) -> int:
        """Return what a call of so many rows takes at most, by the members' medians."""

    async def score(self, batch: Batch, picked: NDArray[np.intp] | None, deadline_ns: int) -> Scored:
        """Return the scores of a batch's rows, or of the picked ones."""
        self._calls += 1
        if not self._calls % DECIDE_EVERY:
            self._decide()
        return await self.combine(batch, picked, deadline_ns)

    @abstractmethod
    async def combine(self, batch: Batch, picked: NDArray[np.intp] | None, deadline_ns: int) -> Scored:
        """Return the scores by what the members say."""

    @property
    def is_computing(self) -> bool:
        """Whether the thread of a member is at work."""
        return any(member.is_computing for member in self.members)

    def yield_core(self, limit_ns: int) -> None:
        """Leave the core to the first member whose thread is at work, for a moment."""
        for member in self.members:
            if member.is_computing:
                member.yield_core(limit_ns)
                return

    def close(self) -> None:
        """Let go of what the members hold."""
        for member in self.members:
            member.close()

    def _decide(self) -> None:
        """Decide which batches run on the loop, where every member's part does and all together are short enough."""
        waited = (each.in_flight_max for each in self.members if each.rows_inline_max < 1)
        self.in_flight_max = min(waited, default=1)
        rows_max = min(ROWS_INLINE_MAX, *(member.rows_inline_max for member in self.members))
        self.rows_inline_max = bisect_right(range(1, rows_max + 1), self._inline_ns, key=self.cost_ns)
        costs_ns = without_noise(tuple(map(self.cost_ns, SIZES)))
        limit_ns = self._inline_ns if self.rows_inline_max else self._slice_ns
        self.rows_best = CostCurve(SIZES, costs_ns, costs_ns).best_rows(limit_ns, overhead_ns=OVERHEAD_NS)


def note_branches(batch: Batch, name: str, picked: NDArray[np.intp] | None, branches: NDArray[np.intp]) -> None:
    """Keep which way the rows of a batch went at a stage, -1 for those that did not come there."""
    if batch.branches is None:
        batch.branches = {}
    if picked is not None:
        whole = batch.branches.get(name)
        whole = np.full(batch.rows, -1, np.intp) if whole is None else whole
        whole[picked] = branches
        branches = whole
    batch.branches[name] = branches


def rows_of(batch: Batch, picked: NDArray[np.intp] | None) -> int:
    """Return how many rows are asked for."""
    return batch.rows if picked is None else len(picked)
