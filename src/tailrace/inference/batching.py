"""Batches of a model too heavy for the loop: what waits while it is busy, earliest deadline first.

An idle model runs at once with what there is. Rows gather only while every instance of it computes, or, where it pays
and was asked for, for a moment more (`max_wait_ns`). When an instance is free it is given as many of the waiting rows
as are cheapest together, and no more than can be computed before the first of their deadlines; a call of more rows goes
in slices, between which a more urgent one has its turn. What is late in the queue is never computed.

The order is that of Jackson's rule (1955): if any order keeps all deadlines, earliest first does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from enum import IntEnum
from functools import partial
from heapq import heappop, heappush
from typing import Final, NamedTuple, Protocol

import structlog

from tailrace.deadline import NS_PER_S, Clock
from tailrace.inference.curve import CostCurve
from tailrace.inference.predictor import Feeds
from tailrace.inference.scored import Scored
from tailrace.inference.thread import InferenceThread, settle
from tailrace.inference.work import Slice, Work, merged_feeds

WORKS_MAX: Final = 64
"""Engine batches that wait or run; a pipeline hands over a few at once, and more would only age."""

STUCK_NS: Final = 10 * NS_PER_S
"""A call that computes for so long is taken for one that never ends: another thread takes its place."""
STUCK_MAX: Final = 3
"""Threads that are given up; one that comes back after all is ended, and may be replaced again."""

RATE_GAIN: Final = 0.1
"""Of a new time between two arrivals, what the average moves."""
GAP_NS_MAX: Final = NS_PER_S
"""Of a time between two arrivals, what counts: after a quiet night the rate of the morning is soon known."""

WAIT_GAIN_MIN: Final = 0.1
"""Of a row's cost, what waiting for others must save."""

Score = Callable[[Feeds, int, int | None], Scored]
"""Feeds, how many rows, a deadline: computes scores, on the calling thread."""


class Reason(IntEnum):
    """Why a batch began."""

    IDLE = 0
    """The model had nothing to do."""
    FREE = 1
    """An instance of it had become free, and rows were waiting."""
    WAITED = 2
    """The time to wait for more rows was over, or was no longer worth it."""


class Formed(NamedTuple):
    """What a batch was, for those who count. waited_ns: by its oldest row, in the stage."""

    rows: int
    reason: Reason
    waited_ns: int


class Costs(Protocol):
    """What the model's calls cost, as far as is known now."""

    @property
    def curve(self) -> CostCurve:
        """The curve drawn last."""
        ...


class Batcher:
    """Runs a model on threads of its own, a batch a time on each. Used from one event loop.

    score: computes a batch. costs: of the model. slice_ns: what one batch may take, where its rows are no reason to go
    on for longer. instances: how many batches run at once, a thread each. max_wait_ns: how long an idle model may wait
    for more rows where that saves time for all.
    observe: is told of each batch when it begins. given_up: calls that did not end.
    """

    def __init__(
        self,
        score: Score,
        costs: Costs,
        clock: Clock,
        *,
        slice_ns: int,
        overhead_ns: int = 0,
        instances: int = 1,
        max_wait_ns: int = 0,
    ) -> None:
        self._score = score
        self._costs = costs
        self._clock = clock
        self._slice_ns = slice_ns
        self._overhead_ns = overhead_ns
        self._max_wait_ns = max_wait_ns
        self._threads = [InferenceThread(clock=clock) for _ in range(instances)]
        self._idle = list(self._threads)
        self._begun_ns: dict[InferenceThread, int] = {}
        self._stuck: set[InferenceThread] = set()
        self._waiting: list[Work] = []
        self._rows_waiting = self._works = self._numbers = 0
        self._timer: asyncio.TimerHandle | None = None
        self._last_ns, self._gap_ns = 0, float(GAP_NS_MAX)
        self.given_up = 0
        self.observe: Callable[[Formed], None] = _ignore

    @property
    def is_computing(self) -> bool:
        """Whether an instance is at work."""
        return len(self._idle) < len(self._threads)

    async def score(
        self, feeds: Feeds, rows: int, deadline_ns: int, tell_scored: Callable[[int], None] | None = None
    ) -> Scored:
        """Return the scores of some rows, computed by the next instance that is free.

        deadline_ns: absolute, of the clock. Raises TimeoutError there and then: the caller never waits longer, and rows
        that no instance has begun are never computed. Raises TimeoutError at once where too much waits already. After a
        TimeoutError an instance may still be reading `feeds`: hand in arrays that are not reused.
        tell_scored: is told of rows that are scored before all are.
        """
        now_ns = self._clock.now_ns()
        left_ns = deadline_ns - now_ns
        if left_ns <= 0 or self._works >= WORKS_MAX:
            raise TimeoutError("the model has no time or no room for this batch")
        loop = asyncio.get_running_loop()
        work = Work(feeds, rows, deadline_ns, self._numbers, now_ns, loop.create_future(), tell_scored)
        self._numbers += 1
        self._works += 1
        self._rows_waiting += rows
        heappush(self._waiting, work)
        self._gap_ns += (min(now_ns - self._last_ns, GAP_NS_MAX) - self._gap_ns) * RATE_GAIN
        self._last_ns = now_ns
        # A turn later: a loop that comes late to its timers finds the result of a thread behind them.
        timer = loop.call_later(left_ns / NS_PER_S, loop.call_soon, self._expire, work)
        try:
            self._arrive(now_ns)
            return await work.future
        finally:
            self._works -= 1
            work.future.cancel()
            timer.cancel()

    def yield_core(self, limit_ns: int) -> None:
        """Leave the core to a running call: until it is done, or for so long."""
        for thread in self._threads:
            if thread not in self._idle:
                thread.yield_core(limit_ns)
                return

    def close(self) -> None:
        """Let go of the threads."""
        for thread in (*self._threads, *self._stuck):
            thread.close(0.0 if thread in self._stuck else 1.0)

    # -- when a batch begins ----------------------------------------------------------------------------------------

    def _arrive(self, now_ns: int) -> None:
        """Begin at once where the model is idle; or wait a moment for more rows, where that pays."""
        if not self._idle:
            self._replace_stuck(now_ns)
        if not self._idle or self._timer is not None:
            if self._timer is not None and not self._pays(now_ns):
                self._stop_waiting()
            return
        if self._max_wait_ns and self._pays(now_ns):
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._max_wait_ns / NS_PER_S, self._stop_waiting)
            return
        self._begin(Reason.IDLE)

    def _replace_stuck(self, now_ns: int) -> None:
        """Give up a thread whose call does not end, so that one row cannot take the model from all that follow."""
        for place, thread in enumerate(self._threads):
            if now_ns - self._begun_ns.get(thread, now_ns) > STUCK_NS and len(self._stuck) < STUCK_MAX:
                self._stuck.add(thread)
                self._threads[place] = fresh = InferenceThread(clock=self._clock)
                self._idle.append(fresh)
                self.given_up += 1
                structlog.get_logger().error("a model call does not end, and is given up", calls=self.given_up)

    def _stop_waiting(self) -> None:
        """Begin with what has gathered."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._begin(Reason.WAITED)

    def _pays(self, now_ns: int) -> bool:
        """Return whether waiting for more rows costs those that wait less than it saves all.

        It does where more rows are likely to come in that time, where the model takes them for clearly less than it
        takes a row alone, and where the first deadline leaves room.
        """
        curve, rows = self._costs.curve, max(self._rows_waiting, 1)
        coming = int(self._max_wait_ns / self._gap_ns) if self._gap_ns > 0 else 0
        if not coming or not self._waiting or rows >= self._rows_best:
            return False
        alone_ns = curve.cost_ns(rows) / rows
        together_ns = curve.cost_ns(rows + coming) / (rows + coming)
        left_ns = self._waiting[0].deadline_ns - now_ns - self._max_wait_ns
        return together_ns <= (1 - WAIT_GAIN_MIN) * alone_ns and left_ns > curve.p95_ns(rows + coming)

    def _begin(self, reason: Reason) -> None:
        """Give each idle instance a batch of what waits."""
        while self._idle and (batch := self._form()):
            rows = sum(each.end - each.start for each in batch)
            oldest_ns = min(each.work.arrival_ns for each in batch)
            self.observe(Formed(rows, reason, self._clock.now_ns() - oldest_ns))
            thread = self._idle.pop()
            self._begun_ns[thread] = self._clock.now_ns()
            feeds, deadline_ns = merged_feeds(batch), max(each.work.deadline_ns for each in batch)
            thread.submit(partial(self._score, feeds, rows, deadline_ns), partial(self._finish, thread, batch))

    def _form(self) -> list[Slice]:
        """Take the next batch from what waits; nothing where nothing does."""
        now_ns, waiting = self._clock.now_ns(), self._waiting
        batch: list[Slice] = []
        room = 0
        while waiting:
            work = waiting[0]
            if work.future.done() or work.deadline_ns <= now_ns:
                heappop(waiting)
                self._rows_waiting -= work.rows - work.begun
                continue
            if not batch:
                room = self._rows_max(work.deadline_ns - now_ns)
            left = work.rows - work.begun
            if batch and left > room and left <= self._rows_best:
                break  # a batch of its own costs less than two halves
            taken = min(left, room)
            batch.append(Slice(work, work.begun, work.begun + taken))
            work.begun += taken
            self._rows_waiting -= taken
            room -= taken
            if work.begun == work.rows:
                heappop(waiting)
            if room <= 0:
                break
        return batch

    @property
    def _rows_best(self) -> int:
        return self._costs.curve.best_rows(self._slice_ns, self._overhead_ns)

    def _rows_max(self, left_ns: int) -> int:
        """Return how many rows a batch may have whose first deadline is so near; one at least."""
        return max(min(self._rows_best, self._costs.curve.rows_within(left_ns)), 1)

    # -- when a batch ends ------------------------------------------------------------------------------------------

    def _finish(
        self, thread: InferenceThread, batch: Sequence[Slice], scored: Scored | None, error: BaseException | None
    ) -> None:
        """Hand every work its part of the scores, or all of them the error; begin the next batch."""
        self._begun_ns.pop(thread, None)
        if thread in self._stuck:
            self._stuck.discard(thread)
            thread.close(0.0)
        else:
            self._idle.append(thread)
        start = 0
        for work, begin, end in batch:
            rows = end - begin
            if scored is None:
                settle(work.future, None, error)
            else:
                work.take(begin, scored.part(start, start + rows), rows)
            start += rows
        if self._timer is None:
            self._begin(Reason.FREE)

    def _expire(self, work: Work) -> None:
        if not work.future.done():
            work.future.set_exception(TimeoutError("the model call passed its deadline"))


def _ignore(formed: Formed) -> None:
    """Count nothing."""
