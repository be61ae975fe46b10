"""Layer 3 of a batch: its stage, under the layer's deadline; what the stage says is the score."""

from __future__ import annotations

import numpy as np

from tailrace.batch import Batch
from tailrace.deadline import LayerLimit
from tailrace.inference.scored import Scored
from tailrace.inference.stage import Stage, walk_stages


class InferenceStep:
    """Scores a batch by a stage, which may be made of others."""

    def __init__(self, stage: Stage, limit: LayerLimit) -> None:
        self.stage = stage
        self._limit = limit

    @property
    def in_flight_max(self) -> int:
        """How many batches it takes at once; it follows what is learned."""
        return self.stage.in_flight_max

    @property
    def rows_best(self) -> int:
        """Rows of a batch with the least cost each."""
        return self.stage.rows_best

    def suspends(self, rows: int) -> bool:
        """Return whether a batch of so many rows waits in a stage."""
        return rows > self.stage.rows_inline_max

    def missing_ns(self, rows: int) -> int:
        """Return what a full batch is expected to take more than one of so many rows on a thread; 0 on the loop."""
        stage = self.stage
        return max(stage.cost_ns(stage.rows_best) - stage.cost_ns(rows), 0) if self.suspends(rows) else 0

    async def run(self, batch: Batch) -> None:
        """Fill `scores`, `failed`, and what is degraded; a batch without rows has none."""
        if batch.rows:
            take_scores(batch, await self.stage.score(batch, None, self._limit.at_ns(batch.deadline_ns)))

    def begin_learning(self) -> None:
        """Learn from now on what calls cost: real ones come."""
        for stage in walk_stages(self.stage):
            stage.learns = True

    def yield_core(self, limit_ns: int) -> None:
        """Leave the core to the stage whose thread is at work: until it is done, or for so long."""
        if self.stage.is_computing:
            self.stage.yield_core(limit_ns)

    @property
    def is_computing(self) -> bool:
        """Whether the thread of a stage is at work."""
        return self.stage.is_computing

    def close(self) -> None:
        """Let go of the stages' threads."""
        self.stage.close()


def take_scores(batch: Batch, scored: Scored) -> None:
    """Leave what the stage said in a batch, for the layers that follow."""
    # As float64: a band's edge and a rule's number are, and so is what the caller gets.
    batch.scores = scores = scored.scores.astype(np.float64, copy=False)
    scores.flags.writeable = False  # a rule that changed one would change what the caller gets
    if scored.failed is not None:
        batch.failed = scored.failed if batch.failed is None else batch.failed | scored.failed
    if scored.degraded is not None:
        batch.add_degraded(scored.degraded)
