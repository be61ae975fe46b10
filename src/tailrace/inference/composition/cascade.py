"""A cheap stage for all rows, and an expensive one for those of which it is unsure."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from tailrace.batch import Batch, Degraded
from tailrace.deadline import Budget, Clock
from tailrace.inference.composition.composed import Composed, note_branches, rows_of
from tailrace.inference.scored import Scored, degraded_or_none, has_scores
from tailrace.inference.stage import Stage

CHEAP, EXPENSIVE = 0, 1
_MODEL_FAILED: Final = np.uint8(Degraded.MODEL_ERROR | Degraded.MODEL_TIMEOUT)


class CascadeStage(Composed):
    """Asks the expensive stage for the rows that the cheap one does not decide. Satisfies `Stage`.

    unsure: the lowest and the highest score that is not clear. A row that the cheap one could not score itself goes on
    too. Where the expensive one has no score, the cheap one's stands.
    """

    def __init__(
        self, name: str, cheap: Stage, expensive: Stage, budget: Budget, *, unsure: tuple[float, float], clock: Clock
    ) -> None:
        self._cheap, self._expensive = cheap, expensive
        self._low, self._high = unsure
        self._now_ns = clock.now_ns
        super().__init__(name, (cheap, expensive), budget)

    def cost_ns(self, rows: int) -> int:
        """Return what a call takes at most: where no row is clear."""
        return self._cheap.cost_ns(rows) + self._expensive.cost_ns(rows)

    async def combine(self, batch: Batch, picked: NDArray[np.intp] | None, deadline_ns: int) -> Scored:
        """Return the expensive one's score for the rows that are not clear, the cheap one's for the others."""
        rows = rows_of(batch, picked)
        first = await self._cheap.score(batch, picked, self._cheap_ns(batch, rows, deadline_ns))
        unsure = self._unsure(first)
        branches = unsure.astype(np.intp)
        if np.count_nonzero(unsure):
            places = unsure.nonzero()[0]
            asked = places if picked is None else picked[places]
            second = await self._expensive.score(batch, asked, deadline_ns)
            answered = has_scores(second.scores)
            branches[places[~answered]] = CHEAP
            first = _replaced(first, second, places, answered)
        note_branches(batch, self.name, picked, branches)
        return first

    def _cheap_ns(self, batch: Batch, rows: int, deadline_ns: int) -> int:
        """Return until when the cheap one may take, so that the expensive one can still answer; half the time at least.

        Only in a batch that waits can it be late without holding up the loop.
        """
        if not batch.suspends:
            return deadline_ns
        left_ns = max(deadline_ns - self._now_ns(), 0)
        return deadline_ns - min(2 * self._expensive.cost_ns(rows), left_ns // 2)

    def _unsure(self, first: Scored) -> NDArray[np.bool_]:
        """Return the rows that the cheap one does not decide; one without a score is never clear."""
        lead = first.scores if first.scores.ndim == 1 else first.scores.max(axis=1)
        unsure: NDArray[np.bool_] = ~((lead < self._low) | (lead > self._high))
        if first.degraded is not None:
            unsure |= (first.degraded & _MODEL_FAILED) != 0
        return unsure


def _replaced(first: Scored, second: Scored, places: NDArray[np.intp], answered: NDArray[np.bool_]) -> Scored:
    """Return the first stage's scores with the second's at the places that it answered."""
    rows = len(first.scores)
    scores = first.scores.astype(np.float64)
    scores[places[answered]] = second.scores[answered]
    degraded = degraded_or_none(rows, [(slice(None), first.degraded), (places, second.degraded)])
    if not answered.all():
        degraded = np.zeros(rows, np.uint8) if degraded is None else degraded
        silent = places[~answered]
        degraded[silent] |= np.where(degraded[silent] & _MODEL_FAILED, 0, Degraded.MODEL_ERROR).astype(np.uint8)
    failed = None if first.failed is None else first.failed.copy()
    if failed is not None:
        failed[places[answered]] = False
        failed = failed if failed.any() else None
    return Scored(scores, degraded, failed)
