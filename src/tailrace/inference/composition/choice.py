"""A stage that sends each row to one of its members: a split, a route, a cold start."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tailrace.batch import Batch
from tailrace.deadline import Budget
from tailrace.inference.composition.composed import Composed, note_branches, rows_of
from tailrace.inference.composition.together import ask_together
from tailrace.inference.scored import Scored, gathered
from tailrace.inference.stage import Stage


class Chooser(Protocol):
    """Says which member each row goes to."""

    def branches(self, batch: Batch, picked: NDArray[np.intp] | None) -> NDArray[np.intp]:
        """Return the index of a member for each row of a batch, or for the picked ones."""
        ...


class ChoiceStage(Composed):
    """Sends each row to one member, and each member only its own rows, side by side. Satisfies `Stage`."""

    def __init__(self, name: str, members: Sequence[Stage], budget: Budget, *, chooser: Chooser) -> None:
        self._branches = chooser.branches
        super().__init__(name, members, budget)

    def cost_ns(self, rows: int) -> int:
        """Return what a call takes at most: where all rows go one way, or as many each way."""
        part = -(-rows // len(self.members))
        parted_ns = sum(member.cost_ns(part) for member in self.members)
        return max(parted_ns, *(member.cost_ns(rows) for member in self.members))

    async def combine(self, batch: Batch, picked: NDArray[np.intp] | None, deadline_ns: int) -> Scored:
        """Return the score that each row's member gives."""
        branches = self._branches(batch, picked)
        note_branches(batch, self.name, picked, branches)
        rows = rows_of(batch, picked)
        counts: list[int] = np.bincount(branches, minlength=len(self.members)).tolist()
        first = int(branches[0])
        if counts[first] == rows:
            return await self.members[first].score(batch, picked, deadline_ns)
        asked = [member for member, count in zip(self.members, counts, strict=True) if count]
        places = [(branches == index).nonzero()[0] for index, count in enumerate(counts) if count]
        picks = places if picked is None else [picked[each] for each in places]
        found = await ask_together(batch, list(zip(asked, picks, strict=True)), deadline_ns)
        return gathered(rows, places, found)
