"""The weighted mean of what several stages say of the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from math import fsum, isfinite
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tailrace.batch import Batch, Degraded
from tailrace.deadline import Budget
from tailrace.inference.composition.composed import Composed
from tailrace.inference.composition.together import ask_together
from tailrace.inference.declaration import Constant
from tailrace.inference.scored import Scored, degraded_or_none, has_scores
from tailrace.inference.stage import Stage

FLOOR_TOLERANCE: Final = 1e-9
"""By which a sum of weights may miss the floor: two halves of three thirds are not quite the number written."""


class EnsembleStage(Composed):
    """Averages its members, which score the same rows side by side. Satisfies `Stage`.

    weights: of each member. floor: the share of them that must have answered a row. fallback: a constant of scores,
    not of a label, for the rows below it; None fails them.
    """

    def __init__(
        self,
        name: str,
        members: Sequence[Stage],
        budget: Budget,
        *,
        weights: Sequence[float],
        floor: float,
        fallback: Constant | None,
    ) -> None:
        whole = fsum(weights)
        self._weights = [weight / whole for weight in weights]
        self._floor = floor - FLOOR_TOLERANCE
        self._fallback = fallback
        super().__init__(name, members, budget)

    def cost_ns(self, rows: int) -> int:
        """Return what a call takes by the members' medians: on one core, one after the other."""
        return sum(member.cost_ns(rows) for member in self.members)

    async def combine(self, batch: Batch, picked: NDArray[np.intp] | None, deadline_ns: int) -> Scored:
        """Return the weighted means of those that answered."""
        found = await ask_together(batch, [(member, picked) for member in self.members], deadline_ns)
        mean: NDArray[Any] = found[0].scores * np.float64(self._weights[0])
        for weight, scored in zip(self._weights[1:], found[1:], strict=True):
            mean += scored.scores * np.float64(weight)
        flat = mean.ravel()
        degraded = degraded_or_none(len(mean), [(slice(None), scored.degraded) for scored in found])
        if isfinite(flat.dot(flat)):
            return Scored(mean, degraded)
        return self._of_answered(found, degraded)

    def _of_answered(self, found: Sequence[Scored], degraded: NDArray[np.uint8] | None) -> Scored:
        """Return the means of those that have a score for a row, and the fallback where they weigh too little."""
        shape = found[0].scores.shape
        sums, weights = np.zeros(shape), np.zeros(shape[0])
        for weight, scored in zip(self._weights, found, strict=True):
            answered = has_scores(scored.scores)
            sums[answered] += scored.scores[answered] * np.float64(weight)
            weights[answered] += weight
        weights.flags.writeable = False
        enough = weights >= self._floor
        sums[enough] = (sums[enough].T / weights[enough]).T
        reasons = np.zeros(shape[0], np.uint8) if degraded is None else degraded
        reasons[(reasons == 0) & (weights < 1 - FLOOR_TOLERANCE)] = Degraded.MODEL_ERROR
        if enough.all():
            return Scored(sums, reasons)
        if self._fallback is not None:
            sums[~enough] = self._fallback.value
            return Scored(sums, reasons)
        sums[~enough] = np.nan
        return Scored(sums, reasons, ~enough)
