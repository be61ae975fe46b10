"""A pipeline compiled for serving: everything that can be looked up, inspected or decided, once, before traffic.

Made in compile/; run by the engine.
"""

from __future__ import annotations

from dataclasses import dataclass

from tailrace.deadline import Budget
from tailrace.features.step import FeaturesStep
from tailrace.features.stores.protocol import OnlineStore
from tailrace.inference.step import InferenceStep
from tailrace.pipeline import Pipeline
from tailrace.postprocess.step import PostprocessStep
from tailrace.request.shared_answers import CoalescePlan
from tailrace.request.step import RequestStep
from tailrace.response.step import ResponseStep


@dataclass(frozen=True, slots=True)
class Cost:
    """What running a plan costs at first, measured before traffic. Times of one whole batch, the five layers together.

    p95_ns: of a batch of one call, the 95th percentile. least_ns: its median: with less time left a call is lost.
    row_ns: a row's part of a full batch.
    """

    p95_ns: int = 0
    least_ns: int = 0
    row_ns: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The five steps that take a batch through the layers, and the cost they start with.

    What is learned while serving belongs to the stages and to the load of the loop. store: what the features are read
    from. coalesce: how requests share answers; None where each has its own.
    """

    pipeline: Pipeline
    store: OnlineStore
    request: RequestStep
    features: FeaturesStep
    inference: InferenceStep
    postprocess: PostprocessStep
    response: ResponseStep
    cost: Cost = Cost()
    coalesce: CoalescePlan | None = None

    @property
    def name(self) -> str:
        """The pipeline's name."""
        return self.pipeline.name

    @property
    def budget(self) -> Budget:
        """The pipeline's budget."""
        return self.pipeline.budget

    @property
    def in_flight_max(self) -> int:
        """How many batches may run at once: more than one only where they wait for something far away."""
        return max(self.features.in_flight_max, self.inference.in_flight_max)

    def suspends(self, rows: int) -> bool:
        """Return whether a batch of so many rows may wait, for the store or for a thread."""
        return self.features.suspends or self.inference.suspends(rows)

    async def open(self) -> None:
        """Connect to the store."""
        await self.store.open()

    def close(self) -> None:
        """Let go of the store and of the stages' threads."""
        self.store.close()
        self.inference.close()
