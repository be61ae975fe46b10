"""The hot path. Calls that arrive in one loop tick become one batch, and the batch travels through the five layers.

Read it from the bottom of a request's way: a transport gives a body to `accept`; the tick takes what has gathered;
`answer` is the five layers; the transport delivers. Nothing here happens once a request that can happen once a batch,
and nothing once a batch that can happen at start-up (plan.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from operator import attrgetter
from typing import Any, Final, Protocol

import structlog

from tailrace.deadline import NS_PER_S, Clock
from tailrace.errors import ServerError, ServingError, ShedError
from tailrace.plan import Plan
from tailrace.response.problem import problem_body
from tailrace.types import Batch, Call, Transport

DURATIONS_MAX: Final = 128
"""Batches remembered for the p95 that admission uses."""

ROWS_WAITING_MAX: Final = 100_000
"""However much time they have."""

QUEUE_SHARE: Final = 0.5
"""Of the time a call has beside its own batch, what a queue may take by our estimate. A longer one would serve no more
calls, only older ones, and turn an estimate that is a little out into calls that are late (bench/overload.py)."""

HURRY_SHARE: Final = 4
"""Calls whose deadlines lie further apart than this part of the budget wait for a store or a model apart, since a
batch waits no longer than its most hurried call can."""

_deadline_of = attrgetter("deadline_ns")
_rows_of = attrgetter("rows")


class Observer(Protocol):
    """Is told of every batch and every refusal; see monitor/recorder.py."""

    def observe(self, batch: Batch, finished_ns: int) -> None:
        """Count one delivered batch."""
        ...

    def observe_shed(self, reason: str) -> None:
        """Count one call refused for lack of time."""
        ...

    def observe_failure(self, kind: type[ServingError]) -> None:
        """Count one call answered with an error before it came into a batch."""
        ...


class Engine:
    """Serves one pipeline on one event loop. Its inbox is bounded by the budget: what would wait too long is shed."""

    def __init__(
        self,
        plan: Plan,
        transport: Transport,
        observer: Observer,
        clock: Clock,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.plan = plan
        self._decode, self._rows_of, self._one_row = plan.decode, plan.rows_of, plan.one_row
        self.budget_ns = plan.budget.total_ns
        self._blocked_ns = 0
        """How long the last batch kept the loop: a call read right after it may have waited that long unseen."""
        self._transport = transport
        self._observer = observer
        self.on_error = observer.observe_failure
        self._now_ns: Callable[[], int] = clock.now_ns
        self._loop = loop or asyncio.get_running_loop()
        self._inbox: list[Call] = []
        self._rows_running = self._calls_running = 0
        self.rows_waiting = 0
        """Rows taken and not yet answered, in the inbox or in a running batch."""
        self._batches_running = 0
        self._batches_max = plan.batches_in_flight_max
        self._scheduled = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._failures = 0
        self._log_at_ns = 0
        self._durations_ns: list[int] = [plan.cost.p95_ns] * (DURATIONS_MAX * 7 // 8)
        self._p95_ns = plan.cost.p95_ns
        self._least_ns = min(plan.cost.least_ns, self.budget_ns // 2)  # a warm-up in a bad moment must not shed all
        self._row_ns = max(plan.cost.row_ns, 1.0)
        self._backlog_since_ns = 0
        """When the last batch ended, if calls were waiting then; else 0."""
        self._rows_allowed = 1
        """With fewer rows waiting a call of the usual budget is sure to be admitted; with more, ask `admits`."""

    # -- what a transport calls -------------------------------------------------------------------------------------

    def accept(self, origin: Any, head: Any, body: bytes, budget_ns: int = 0) -> Call | None:
        """Take a call into the batch that the next tick runs; None where it must be refused for lack of time.

        budget_ns: the caller's own, if it is sooner than the pipeline's. Raises ClientError for what is no request.
        """
        now_ns = self._now_ns()
        deadline_ns = now_ns - self._blocked_ns + (budget_ns or self.budget_ns)
        if (budget_ns or self.rows_waiting >= self._rows_allowed) and not self.admits(now_ns, deadline_ns):
            return None
        requests = self._decode(body)
        rows = 1 if type(requests) is self._one_row else self._rows_of(requests)
        call = Call(origin, head, requests, now_ns, deadline_ns, rows)
        self.submit(call)
        return call

    @property
    def calls_waiting(self) -> int:
        """Calls taken and not yet answered."""
        return len(self._inbox) + self._calls_running

    def admits(self, now_ns: int, deadline_ns: int) -> bool:
        """Say whether a call that arrives now can be answered by its deadline; if not, it must be refused at once.

        With nothing before it a call needs only the least time that a batch takes: it is what brings the p95 down
        again after a moment in which everything was slow.
        """
        rows = self.rows_waiting
        needed_ns = rows * self._row_ns / QUEUE_SHARE + self._p95_ns if rows else self._least_ns
        if now_ns + needed_ns <= deadline_ns and rows < ROWS_WAITING_MAX:
            return True
        self._observer.observe_shed("deadline" if rows < ROWS_WAITING_MAX else "queue_full")
        return False

    def submit(self, call: Call) -> None:
        """Take a call that was admitted."""
        self._inbox.append(call)
        self.rows_waiting += call.rows
        if not self._scheduled and self._batches_running < self._batches_max:
            self._scheduled = True
            self._loop.call_soon(self._tick)

    # -- the tick ---------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        """Run what has gathered as one batch."""
        self._scheduled = False
        began_ns = self._now_ns()
        calls = self._take(began_ns)
        if not calls:
            self._reschedule()
            return
        batch = Batch(calls, began_ns, min(map(_deadline_of, calls)))
        rows = sum(map(_rows_of, calls))
        self._rows_running += rows
        self._calls_running += len(calls)
        self._batches_running += 1
        if self.plan.suspends:
            task = self._loop.create_task(self._run(batch, rows))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            self._reschedule()
        else:
            drive(self._run(batch, rows))
            self._blocked_ns = self._now_ns() - began_ns
            self._loop.call_soon(self._forget_block)

    def _forget_block(self) -> None:
        """Runs once the sockets have been read that the last batch kept waiting; calls read later did not wait."""
        self._blocked_ns = 0

    def _take(self, now_ns: int) -> list[Call]:
        """Take the calls of the next batch out of the inbox: as many as are best run at once, and still in time."""
        calls = self._inbox
        if self.rows_waiting - self._rows_running <= self.plan.rows_best:
            self._inbox = []
        else:
            calls = self._take_some()
        latest_ns = now_ns + self._least_ns
        if self.plan.suspends:  # one call that is late already would cut short what all others of its batch wait for
            whole_ns = sum(map(_rows_of, calls)) * self._row_ns
            latest_ns = max(latest_ns, now_ns + min(int(whole_ns), self.budget_ns // 2))
        if calls and min(map(_deadline_of, calls)) < latest_ns:
            calls = self._shed_late(calls, latest_ns)
        if self.plan.suspends and len(calls) > 1:
            calls = self._take_hurried(calls)
        return calls

    def _take_some(self) -> list[Call]:
        """Take calls from the front until they make a full batch; always at least one."""
        rows = count = 0
        for count, call in enumerate(self._inbox):
            if count and rows + call.rows > self.plan.rows_best:
                break
            rows += call.rows
        else:
            count += 1
        taken, self._inbox = self._inbox[:count], self._inbox[count:]
        return taken

    def _take_hurried(self, calls: list[Call]) -> list[Call]:
        """Return the calls whose deadlines lie near the first one; the others go back to the front of the inbox."""
        limit_ns = min(map(_deadline_of, calls)) + self.budget_ns // HURRY_SHARE
        if max(map(_deadline_of, calls)) <= limit_ns:
            return calls
        self._inbox[:0] = [call for call in calls if call.deadline_ns > limit_ns]
        return [call for call in calls if call.deadline_ns <= limit_ns]

    def _shed_late(self, calls: list[Call], latest_ns: int) -> list[Call]:
        """Refuse the calls that can no longer be answered in time; return the others."""
        for call in calls:
            if call.deadline_ns < latest_ns:
                self._observer.observe_shed("expired")
                self.rows_waiting -= call.rows
                self._transport.refuse(call, ShedError("the call waited too long for its budget"))
        return [call for call in calls if call.deadline_ns >= latest_ns]

    def _reschedule(self) -> None:
        if self._inbox and not self._scheduled and self._batches_running < self._batches_max:
            self._scheduled = True
            self._loop.call_soon(self._tick)

    # -- the batch --------------------------------------------------------------------------------------------------

    async def _run(self, batch: Batch, rows: int) -> None:
        """Answer a batch, whatever happens, and learn from how long it took."""
        try:
            await self._answer_each(batch)
        finally:
            self.rows_waiting -= rows
            self._rows_running -= rows
            self._calls_running -= len(batch.calls)
            self._batches_running -= 1
            self._learn(batch.started_ns, self._now_ns(), rows)
            self._reschedule()

    async def _answer_each(self, batch: Batch) -> None:
        """Answer a batch; where a layer raises, answer its halves, until each fault stands alone with its own call.

        One of 64 is found in 13 runs. Calls that fail together, and have no time left, are answered with an error.
        """
        waiting = [batch.calls]
        while waiting:
            calls = waiting.pop()
            part = batch if calls is batch.calls else Batch(calls, self._now_ns(), batch.deadline_ns)
            try:
                await answer(self.plan, part, self._now_ns)
            except Exception as error:  # of a user's function, on what one caller sent
                half = len(calls) // 2
                if half and self._now_ns() <= max(map(_deadline_of, calls)):
                    waiting += [calls[half:], calls[:half]]
                    continue
                self._fail(part, error)
            self._transport.deliver(part)
            self._observer.observe(part, self._now_ns())

    def _fail(self, batch: Batch, error: Exception) -> None:
        """Give every call of a batch an error; log it, at most once a second."""
        fault = ServerError(f"{type(error).__name__} while answering this request", next="see the server's log")
        batch.errors = dict.fromkeys(range(len(batch.calls)), fault)
        batch.bodies = [problem_body(fault)] * len(batch.calls)
        self._failures += len(batch.calls)
        now_ns = self._now_ns()
        if now_ns >= self._log_at_ns:
            log = structlog.get_logger()
            log.error("calls failed", pipeline=self.plan.name, calls=self._failures, error=repr(error), exc_info=error)
            self._failures, self._log_at_ns = 0, now_ns + NS_PER_S

    def _learn(self, started_ns: int, ended_ns: int, rows: int) -> None:
        """Keep the p95 of a batch, and the queue's pace: from one batch's end to the next one's while calls wait.

        So what lies between batches counts too: reading, and refusing others. A small batch says nothing of the pace.
        """
        if not rows:  # an empty array: it says nothing of what others cost
            return
        durations = self._durations_ns
        took_ns = ended_ns - started_ns
        durations.append(took_ns)
        self._least_ns = min(self._least_ns, took_ns)
        row_ns = (ended_ns - (self._backlog_since_ns or started_ns)) / rows
        if row_ns < self._row_ns or 2 * rows >= self.plan.rows_best:
            self._row_ns += (row_ns - self._row_ns) * 0.05
        self._backlog_since_ns = ended_ns if self._inbox else 0
        if len(durations) >= DURATIONS_MAX:
            self._p95_ns = sorted(durations)[DURATIONS_MAX * 95 // 100]
            del durations[: DURATIONS_MAX // 8]
        spare_ns = self.budget_ns - self._blocked_ns - self._p95_ns
        self._rows_allowed = min(int(spare_ns * QUEUE_SHARE / self._row_ns), ROWS_WAITING_MAX)


async def answer(plan: Plan, batch: Batch, now_ns: Callable[[], int]) -> None:
    """Take a batch through the five layers. Suspends only where the plan says so."""
    mark = batch.marks_ns.append
    plan.gather(batch)  # 1 request: calls to rows and columns
    mark(now_ns())
    await plan.retrieve(batch)  # 2 features: one round trip, then the model's inputs
    mark(now_ns())
    await plan.infer(batch)  # 3 inference: one call of the model
    mark(now_ns())
    plan.decide(batch)  # 4 postprocess: bands, labels, rules
    mark(now_ns())
    plan.encode(batch)  # 5 response: the bodies
    mark(now_ns())


def drive(run: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine that never suspends to its end, without a task."""
    try:
        run.send(None)
    except StopIteration:
        return
    raise RuntimeError("a plan that says it never suspends did suspend")
