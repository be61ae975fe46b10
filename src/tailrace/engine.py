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
from tailrace.request.admission import Admission
from tailrace.response.problem import problem_body
from tailrace.types import Batch, Call, Transport

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
        self._scheduled = self._rest_due = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._failures = 0
        self._log_at_ns = 0
        self._admission = Admission(
            self.budget_ns, plan.cost.p95_ns, plan.cost.least_ns, plan.cost.row_ns, plan.rows_best
        )

    # -- what a transport calls -------------------------------------------------------------------------------------

    def accept(self, origin: Any, head: Any, body: bytes, budget_ns: int = 0) -> Call | None:
        """Take a call into the batch that the next tick runs; None where it must be refused for lack of time.

        budget_ns: the caller's own, if it is sooner than the pipeline's. Raises ClientError for what is no request.
        """
        now_ns = self._now_ns()
        deadline_ns = now_ns - self._blocked_ns + (budget_ns or self.budget_ns)
        sure = not budget_ns and self.rows_waiting < self._admission.rows_allowed
        if not (sure or self.admits(now_ns, deadline_ns)):
            return None
        requests, rows = self._decode(body), 1
        if type(requests) is not self._one_row:
            rows = self._rows_of(requests)
            if rows > 1 and not self.admits(now_ns, deadline_ns, rows):
                return None
        call = Call(origin, head, requests, now_ns, deadline_ns, rows)
        self.submit(call)
        return call

    @property
    def calls_waiting(self) -> int:
        """Calls taken and not yet answered."""
        return len(self._inbox) + self._calls_running

    def admits(self, now_ns: int, deadline_ns: int, rows: int = 1) -> bool:
        """Say whether a call that arrives now can be answered by its deadline; if not, it must be refused at once."""
        reason = self._admission.refuses(deadline_ns - now_ns, self.rows_waiting, rows)
        if reason:
            self._observer.observe_shed(reason)
            if self.plan.rest is not None and self._batches_running and not self._rest_due:
                self._rest_due = True
                self._loop.call_soon(self._rest)
        return not reason

    def _rest(self) -> None:
        """Leave the core to the model at work, once what was read is refused: what comes meanwhile is read together."""
        self._rest_due = False
        assert self.plan.rest is not None
        self.plan.rest()

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
            self._loop.call_soon(self._forget_block)  # before a next tick asks for its turn, which sets it anew
            drive(self._run(batch, rows))
            self._blocked_ns = self._now_ns() - began_ns

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
        latest_ns = now_ns + self._admission.least_ns
        if self.plan.suspends:  # one call that is late already would cut short what all others of its batch wait for
            whole_ns = self._admission.batch_ns(sum(map(_rows_of, calls)))
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
            waiting = bool(self._inbox)
            self._admission.learn(batch.started_ns, self._now_ns(), rows, self._blocked_ns, waiting=waiting)
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


async def answer(plan: Plan, batch: Batch, now_ns: Callable[[], int]) -> None:
    """Take a batch through the five layers. Suspends only where the plan says so."""
    mark = batch.marks_ns.append
    mark(batch.started_ns)
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
