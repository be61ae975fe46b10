"""Layer 3 of a batch: the stages, one after the other; what the last one says is the score."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

from tailrace.batch import Batch
from tailrace.deadline import LayerLimit
from tailrace.inference.stage import Stage

_rows_best = attrgetter("rows_best")
_rows_inline_max = attrgetter("rows_inline_max")


class InferenceStep:
    """Scores a batch by every stage, under the layer's one deadline. in_flight_max: batches that it takes at once."""

    def __init__(self, stages: Sequence[Stage], limit: LayerLimit) -> None:
        self.stages = tuple(stages)
        self.in_flight_max = min(stage.in_flight_max for stage in stages)
        self._limit = limit

    @property
    def rows_best(self) -> int:
        """Rows of a batch with the least cost each."""
        rows_best: int = min(map(_rows_best, self.stages))
        return rows_best

    def suspends(self, rows: int) -> bool:
        """Return whether a batch of so many rows waits in a stage."""
        rows_max: int = min(map(_rows_inline_max, self.stages))
        return rows > rows_max

    async def run(self, batch: Batch) -> None:
        """Fill `scores` and `stage_scores`; a batch without rows has none."""
        if batch.rows:
            limit_ns = self._limit.at_ns(batch.deadline_ns)
            for stage in self.stages:
                await stage.run(batch, limit_ns)

    def begin_learning(self) -> None:
        """Learn from now on what calls cost: real ones come."""
        for stage in self.stages:
            stage.learns = True

    def yield_core(self) -> None:
        """Leave the core to the stage whose thread is at work, for a moment."""
        for stage in self.stages:
            if stage.is_computing:
                stage.yield_core()

    @property
    def is_computing(self) -> bool:
        """Whether the thread of a stage is at work."""
        return any(stage.is_computing for stage in self.stages)

    def close(self) -> None:
        """Let go of the stages' threads."""
        for stage in self.stages:
            stage.close()
