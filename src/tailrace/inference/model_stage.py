"""A stage of layer 3: one model that scores a batch, on the loop or on its thread, in time or by its fallback.

Where a batch runs is decided by its rows and by what they are expected to cost, which the stage goes on learning while
it serves. A batch on the thread is held to its deadline; what is late takes the fallback, and its result is dropped.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from tailrace.batch import Batch, Degraded
from tailrace.deadline import NS_PER_MS, Budget, Clock
from tailrace.inference.assembly import Assembler
from tailrace.inference.batching import Batcher, Formed
from tailrace.inference.curve import CostCurve
from tailrace.inference.inline import OVERHEAD_NS, ROWS_INLINE_MAX, inline_ns_of, slice_ns_of
from tailrace.inference.learned import LearnedCosts
from tailrace.inference.packaged import PackagedModel
from tailrace.inference.predictor import Feeds
from tailrace.inference.scored import Scored
from tailrace.inference.scorer import Scorer
from tailrace.inference.signature import Signature
from tailrace.inference.stage import Stage, walk_stages
from tailrace.inference.thread import InferenceThread

TURN_NS: Final = 8 * NS_PER_MS
"""How long a second model may wait for its turn on a core where the first, which is late, still computes."""

GATHERING_MAX: Final = 8
"""Batches of the engine that an idle model may wait for together."""

LEARN_EVERY: Final = 4
"""Calls of which one is timed and learned from."""


class ModelStage:
    """One model, ready to score the batches of a pipeline. Satisfies `Stage`.

    name: of its scores. assemblers: fill its inputs. curve: what a call costs, measured before traffic;
    fallback_curve: of its second model, if it falls back to one. backend: what computes it; backend_reason: why it is
    not a faster one; explained_by: the model as it was packaged, or why nothing explains it. rows_inline_max: rows of a
    batch that runs on the loop, 0 for none; rows_best: rows with the least cost each; both follow what is
    learned. learns: whether it learns yet, from real calls and not from samples. instances: threads that compute it;
    max_wait_ns: how long it may wait, idle, for more rows where that pays. in_flight_max: batches it takes at once.
    """

    members: Final = ()
    second: Final = None
    notice: Final = ""

    def __init__(
        self,
        name: str,
        signature: Signature,
        assemblers: Sequence[Assembler],
        scorer: Scorer,
        curve: CostCurve,
        *,
        budget: Budget,
        clock: Clock,
        fallback_curve: CostCurve | None = None,
        backend: str = "",
        backend_reason: str = "",
        explained_by: PackagedModel | str = "it is not packaged",
        instances: int = 1,
        max_wait_ns: int = 0,
        blocks: bool = False,
    ) -> None:
        self.name = name
        self.signature = signature
        self.backend, self.backend_reason = backend, backend_reason
        self.explained_by = explained_by
        self.rows_inline_max = 0
        self.rows_best = 1
        self._fills = [(assembler.name, assembler.fill) for assembler in assemblers]
        self._scorer = scorer
        self._costs = LearnedCosts(curve)
        self._fallback_curve = fallback_curve
        self._slice_ns = slice_ns_of(budget)
        self._inline_ns = 0 if blocks else inline_ns_of(budget)
        self._clock = clock
        self._now_ns = clock.now_ns
        self._batcher: Batcher | None = None
        self._instances, self._max_wait_ns = instances, max_wait_ns
        self.in_flight_max = instances + (GATHERING_MAX if max_wait_ns else 0)
        self._observe: Callable[[Formed], None] | None = None
        # A second model has a thread of its own: it is asked when the first one is still at work.
        self._fallback_thread: InferenceThread | None = None
        self._calls = 0
        self.learns = False
        self._set_rows()

    @property
    def curve(self) -> CostCurve:
        """What a call costs, as far as is known now."""
        return self._costs.curve

    @property
    def is_threaded(self) -> bool:
        """Whether even a single row runs on the thread."""
        return self.rows_inline_max < 1

    @property
    def scorer(self) -> Scorer:
        """What guards the model's calls, and knows how many have failed, and why."""
        return self._scorer

    @property
    def failure(self) -> str:
        """Why the model could not score a row, the last time that it could not; empty where it always could."""
        return self._scorer.failure

    def cost_ns(self, rows: int) -> int:
        """Return what a call of so many rows takes, the median, as far as is known now."""
        return self._costs.curve.cost_ns(rows)

    async def score(self, batch: Batch, picked: NDArray[np.intp] | None, deadline_ns: int) -> Scored:
        """Return the scores of a batch's rows, or of the picked ones. Waits only in a batch that suspends.

        deadline_ns: when the scores must be there.
        """
        feeds: dict[str, NDArray[Any]] = {}  # its own: a stage that is late reads them still when the next one is asked
        for name, fill in self._fills:
            feeds[name] = fill(batch) if picked is None else fill(batch)[picked]
        rows = batch.rows if picked is None else len(picked)
        if batch.suspends and rows > self.rows_inline_max:
            return await self._score_on_thread(batch, feeds, rows, deadline_ns)
        return self._score(feeds, rows, deadline_ns)

    def _score(self, feeds: Feeds, rows: int, deadline_ns: int | None) -> Scored:
        """Score a batch here and now, and learn what some of them take."""
        self._calls += 1
        if not self.learns or self._calls % LEARN_EVERY:
            return self._scorer.score(feeds, rows, deadline_ns)
        began_ns = self._now_ns()
        scored = self._scorer.score(feeds, rows, deadline_ns)
        if scored.degraded is None and self._costs.learn(rows, self._now_ns() - began_ns):
            self._set_rows()
        return scored

    async def _score_on_thread(self, batch: Batch, feeds: Feeds, rows: int, deadline_ns: int) -> Scored:
        """Score a batch on a thread; what is late gets the fallback, and its result is dropped."""
        if self._batcher is None:
            self._batcher = self._start_batcher()
        first_ns = deadline_ns - self._fallback_ns(rows, deadline_ns)
        try:
            return await self._batcher.score(feeds, rows, first_ns, batch.tell_scored)
        except TimeoutError:
            return await self._fall_back(feeds, rows, deadline_ns)

    def _start_batcher(self) -> Batcher:
        """Return what forms the batches of the threads; only a model that needs them has any."""
        batcher = Batcher(
            self._score, self._costs, self._clock, slice_ns=self._slice_ns, overhead_ns=OVERHEAD_NS,
            instances=self._instances, max_wait_ns=self._max_wait_ns,
        )  # fmt: skip
        batcher.observe = self._observe or batcher.observe
        return batcher

    def _fallback_ns(self, rows: int, deadline_ns: int) -> int:
        """Return what of the time until the deadline is kept for the second model, half of it at most."""
        if self._fallback_curve is None:
            return 0
        return kept_ns(self._fallback_curve, rows, deadline_ns - self._now_ns())

    async def _fall_back(self, feeds: Feeds, rows: int, deadline_ns: int) -> Scored:
        """Score a batch whose model was late: by the second model where there is one, and it is in time."""
        scorer, reason = self._scorer, Degraded.MODEL_TIMEOUT
        if self._fallback_curve is not None:
            if self._fallback_thread is None:
                self._fallback_thread = InferenceThread(clock=self._clock)
            run = self._fallback_thread.run
            try:
                return await run(scorer.fall_back, feeds, rows, reason, deadline_ns, deadline_ns=deadline_ns)
            except TimeoutError:
                scorer = cast(Scorer, scorer.fallback)
        return scorer.fall_back(feeds, rows, reason)

    def tell_batches(self, observe: Callable[[Formed], None]) -> None:
        """Tell `observe` of each batch that begins on a thread."""
        self._observe = observe
        if self._batcher is not None:
            self._batcher.observe = observe

    @property
    def is_computing(self) -> bool:
        """Whether the thread is at work."""
        return self._batcher is not None and self._batcher.is_computing

    def yield_core(self, limit_ns: int) -> None:
        """Leave the core to the call on the thread: until it is done, or for a moment."""
        if self._batcher is not None:
            self._batcher.yield_core(limit_ns)

    def close(self) -> None:
        """Let go of the threads."""
        for threads in (self._batcher, self._fallback_thread):
            if threads is not None:
                threads.close()

    def _set_rows(self) -> None:
        """Decide again which batches run on the loop, and how many rows are best run at once."""
        curve, inline_ns, every_size = self._costs.curve, self._inline_ns, range(1, ROWS_INLINE_MAX)
        curves = [curve] if self._fallback_curve is None else [curve, self._fallback_curve]
        # At once: the loop may look meanwhile, when a call on the thread has taught it.
        self.rows_inline_max = min(bisect_right(every_size, inline_ns, key=each.cost_ns) for each in curves)
        limit_ns = self._slice_ns if self.is_threaded else inline_ns
        self.rows_best = curve.best_rows(limit_ns, overhead_ns=OVERHEAD_NS)


def kept_ns(curve: CostCurve, rows: int, left_ns: int) -> int:
    """Return what of the time left is kept for a second model of such costs, half of it at most."""
    return min(2 * curve.p95_ns(rows) + TURN_NS, max(left_ns, 0) // 2)


def model_stages(stage: Stage) -> list[ModelStage]:
    """Return the models of a stage, in their order; each once."""
    return list(dict.fromkeys(found for found in walk_stages(stage) if isinstance(found, ModelStage)))
