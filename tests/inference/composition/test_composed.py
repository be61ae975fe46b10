"""What a stage of stages goes on learning from its members."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np

from tailrace.batch import Batch
from tailrace.deadline import Budget
from tailrace.inference.composition.composed import DECIDE_EVERY
from tailrace.inference.composition.ensemble import EnsembleStage
from tailrace.inference.scored import Scored


class Member:
    """A stage that scores zeros: rows_inline_max of them on the loop, in_flight_max batches at once."""

    def __init__(self, rows_inline_max: int, in_flight_max: int) -> None:
        self.rows_inline_max, self.in_flight_max = rows_inline_max, in_flight_max

    def cost_ns(self, rows: int) -> int:
        """Return that it costs little."""
        return 1_000

    async def score(self, batch: Batch, picked: Any, deadline_ns: int) -> Scored:
        """Return zeros."""
        return Scored(np.zeros(batch.rows))


def test_batches_in_flight_follow_what_the_members_learn() -> None:
    """A model measured in a bad moment holds back a server far away until it is known to be light, and no longer."""
    far, model = Member(0, 32), Member(0, 1)
    members: list[Any] = [far, model]
    stage = EnsembleStage("mean", members, Budget("50ms"), weights=[1, 1], floor=0.5, fallback=None)

    async def learn() -> int:
        for _ in range(DECIDE_EVERY):
            await stage.score(Batch([], 0, 10**18, rows=1), None, 10**18)
        return stage.in_flight_max

    assert stage.in_flight_max == 1
    model.rows_inline_max = 100
    assert asyncio.run(learn()) == 32
    model.rows_inline_max = 0
    assert asyncio.run(learn()) == 1
