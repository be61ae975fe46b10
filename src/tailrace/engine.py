"""The hot path. Calls that arrive in one loop tick become one batch, and the batch travels through the five layers.

Read it from the bottom of a request's way: an endpoint submits a call; the tick takes what has gathered; `answer` is
the five layers; the calls' transport delivers. Nothing here happens once a request that can happen once a batch, and
nothing once a batch that can happen at start-up (compile/).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from operator import attrgetter
from typing import Any, Final, Protocol

import structlog

from tailrace.batch import Batch, Call
from tailrace.deadline import LAYERS, NS_PER_MS, NS_PER_S, Clock
from tailrace.delivery import deliver
from tailrace.errors import ServerError, ServingError
from tailrace.loop_load import Loop, LoopLoad
from tailrace.plan import Plan
from tailrace.refusals import SHED, Refusals
from tailrace.request.admission import Admission
from tailrace.request.coalescing import Coalescing
from tailrace.request.shared_answers import SharedAnswers

HURRY_SHARE: Final = 4
"""Calls whose deadlines are further apart than this part of the budget wait for a store or a model in batches of their
own, since a batch waits no longer than its most hurried call can."""

LOOKED_THROUGH_MAX: Final = 256
"""Calls in the inbox among which a hurried one may look for its place: 10 µs, about what a refusal takes."""
REST_NS: Final = 1 * NS_PER_MS
"""How long a loop that can begin nothing leaves the core to the model: waking for each call takes 30 µs of it."""

_deadline_of = attrgetter("deadline_ns")
_call_rows = attrgetter("rows")


class Recorder(Protocol):
    """Counts, or keeps, what becomes of the calls of a batch. It is called on the loop and never waits."""

    def record(self, batch: Batch, finished_ns: int) -> None:
        """Take in one delivered batch."""
        ...


class Engine:
    """Serves one pipeline on one event loop. Its inbox is bounded by the budget: what would wait too long is shed."""

    def __init__(
        self,
        plan: Plan,
        load: LoopLoad,
        recorders: Sequence[Recorder],
        clock: Clock,
        loop: Loop | None = None,
    ) -> None:
        self.plan = plan
        self.load = load
        self.budget_ns = plan.budget.total_ns
        self.clock = clock
        self._now_ns: Callable[[], int] = clock.now_ns
        self._recorders = tuple(recorders)
        self._loop: Loop = loop or asyncio.get_running_loop()
        self.refusals = Refusals(recorders, self._loop, self.budget_ns, self._log_failures)
        self._inbox: list[Call] = []
        self._rows_running = self._calls_running = self._batches_running = 0
        self._batches_max = plan.in_flight_max
        self._inference = plan.inference
        self._inference.begin_learning()
        self._is_one_stage = not plan.inference.stage.members  # of several each would tell of the same rows
        self._store_suspends = plan.features.suspends
        self._scheduled = self._rest_due = False
        self._tasks: set[Any] = set()
        self._failures = 0
        self._log_at_ns = 0
        cost = plan.cost
        missing_of = self._inference.missing_ns if self._inference.suspends(1) else None
        self.admission = Admission(
            self.budget_ns, cost.p95_ns, cost.least_ns, cost.row_ns, self._inference.rows_best, missing_of
        )
        load.add(self.admission)
        self.coalescing: Coalescing | None = None
        if (shared := plan.coalesce) is not None:
            events, now_ns = plan.features.events, self._now_ns
            answers = SharedAnswers(shared, events, recorders, self._loop, now_ns, self._log_failures)
            self.coalescing = Coalescing(shared, self, answers, now_ns, alike_ns=self.budget_ns // HURRY_SHARE)

    # -- what an endpoint calls -------------------------------------------------------------------------------------

    @property
    def calls_waiting(self) -> int:
        """Calls taken and not yet answered."""
        following = 0 if self.coalescing is None else self.coalescing.calls_following
        return len(self._inbox) + self._calls_running + following

    def refuses(self, left_ns: int, now_ns: int, rows: int = 1, weight: float = 1.0) -> bool:
        """Say whether a call cannot be answered in the time it has left, and count it if so.

        weight: what each row that waits counts for, to a call of its priority; of a low one it goes before no other.
        """
        reason = self.admission.refuses(left_ns, now_ns, rows, weight)
        if not reason or (weight <= 1 and self._inbox and self._goes_before(left_ns, now_ns, rows)):
            return False
        self.refusals.count_shed(reason)
        return True

    def refuse(self, call: Call) -> ServingError | None:
        """Return the refusal of a call for its transport to send, or None where it is sent a little later."""
        if not self._batches_running:
            return SHED
        self._rest()
        self.refusals.hold(call)
        return None

    def _goes_before(self, left_ns: int, now_ns: int, rows: int) -> bool:
        """Return whether a call can be answered in time though the queue is too long: by going before most of it.

        The last call, which it pushes back, must still be in time. A long inbox is not looked through: it would be for
        each call of an overload.
        """
        last_ns, deadline_ns = self._inbox[-1].deadline_ns, now_ns + left_ns
        if last_ns <= deadline_ns or len(self._inbox) > LOOKED_THROUGH_MAX:
            return False
        before = self._rows_running + sum(call.rows for call in self._inbox if call.deadline_ns <= deadline_ns)
        return self.admission.fits_before(before, left_ns, rows, last_ns - now_ns)

    def _rest(self) -> None:
        """Leave the core to the model at work, once what was read is dealt with; what comes then is read together.

        Where the loop has other engines, their calls could begin meanwhile.
        """
        if not (self._rest_due or self.load.is_shared) and self._inference.is_computing:
            self._rest_due = True
            self._loop.call_soon(self._leave_core)

    def _leave_core(self) -> None:
        self._rest_due = False
        self.load.leave_sockets(self._now_ns())
        self._inference.yield_core(REST_NS)

    def submit(self, call: Call) -> None:
        """Take a call that was admitted."""
        self._inbox.append(call)
        self.admission.rows_waiting += call.rows
        if self._scheduled:
            return
        if self._batches_running < self._batches_max:
            self._scheduled = True
            self._loop.call_soon(self._tick)
        else:
            self._rest()

    # -- the tick ---------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        """Run what has gathered as one batch."""
        self._scheduled = False
        began_ns = self._now_ns()
        self.load.leave_sockets(began_ns)
        admission = self.admission
        if admission.rows_waiting > admission.rows_best:
            admission.promise(began_ns)
        calls = self._take()
        rows = sum(map(_call_rows, calls))
        suspends = self._store_suspends or self._inference.suspends(rows)
        in_time = self._in_time(calls, rows, began_ns, suspends=suspends) if calls else calls
        if in_time is not calls:
            calls, rows = in_time, sum(map(_call_rows, in_time))
        if not calls:
            self._reschedule()
            return
        batch = Batch(calls, began_ns, min(map(_deadline_of, calls)), suspends)
        self._rows_running += rows
        self._calls_running += len(calls)
        if not suspends:
            self._batches_running += 1
            drive(self._run(batch, rows))
            return
        is_sliced = rows > admission.rows_best
        if not is_sliced:
            self._batches_running += 1
        elif self._is_one_stage:
            batch.tell_scored = partial(self._learn_slice, batch)
        self._batches_max = self.plan.in_flight_max  # which a stage of stages goes on learning
        task = self._loop.create_task(self._run(batch, rows, is_sliced=is_sliced))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._reschedule()

    def _take(self) -> list[Call]:
        """Take calls until they make a full batch, of a long queue the most urgent; at least one, if there is one."""
        admission = self.admission
        rows_best = admission.rows_best = self._inference.rows_best
        if admission.rows_waiting - self._rows_running <= rows_best:
            taken, self._inbox = self._inbox, []
            return taken
        self._inbox.sort(key=_deadline_of)
        rows = count = 0
        for count, call in enumerate(self._inbox):
            if count and rows + call.rows > rows_best:
                break
            rows += call.rows
        else:
            count += 1
        taken, self._inbox = self._inbox[:count], self._inbox[count:]
        return taken

    def _in_time(self, calls: list[Call], rows: int, now_ns: int, *, suspends: bool) -> list[Call]:
        """Return the calls that can still be answered in time, and refuse the others.

        Of a batch that waits, calls with much later deadlines than the first go back to the inbox.
        """
        latest_ns = now_ns + self.admission.soonest_ns
        if suspends:  # one call that is late already would cut short what all others of its batch wait for
            whole_ns = now_ns + min(int(self.admission.batch_ns(rows)), self.budget_ns // 2)
            if max(map(_deadline_of, calls)) >= whole_ns:  # where there are others
                latest_ns = max(latest_ns, whole_ns)
        if min(map(_deadline_of, calls)) < latest_ns:
            calls = self._shed_late(calls, latest_ns)
        return self._take_hurried(calls) if suspends and len(calls) > 1 else calls

    def _take_hurried(self, calls: list[Call]) -> list[Call]:
        """Return the calls whose deadlines are near the first one; the others go back to the front of the inbox."""
        limit_ns = min(map(_deadline_of, calls)) + self.budget_ns // HURRY_SHARE
        if max(map(_deadline_of, calls)) <= limit_ns:
            return calls
        self._inbox[:0] = [call for call in calls if call.deadline_ns > limit_ns]
        return [call for call in calls if call.deadline_ns <= limit_ns]

    def _shed_late(self, calls: list[Call], latest_ns: int) -> list[Call]:
        """Refuse the calls that can no longer be answered in time; return the others."""
        for call in calls:
            if call.deadline_ns < latest_ns:
                self.admission.drop(call.rows)
                self.refusals.expire(call)
        return [call for call in calls if call.deadline_ns >= latest_ns]

    def _reschedule(self) -> None:
        if self._inbox and not self._scheduled and self._batches_running < self._batches_max:
            self._scheduled = True
            self._loop.call_soon(self._tick)

    # -- the batch --------------------------------------------------------------------------------------------------

    async def _run(self, batch: Batch, rows: int, *, is_sliced: bool = False) -> None:
        """Answer a batch, whatever happens, and learn from how long it took.

        is_sliced: one call of more rows than a full batch. It is computed in slices, and takes no place among the
        batches that run: others come to the model between its slices.
        """
        failed = True
        try:
            failed = await self._answer_each(batch)
        finally:
            self._calls_running -= len(batch.calls)
            waiting = bool(self._inbox)
            if is_sliced:
                self._learn_slice(batch, rows - batch.rows_scored)
            else:
                self._rows_running -= rows
                self._batches_running -= 1
                self.admission.learn(batch.started_ns, self._now_ns(), rows, waiting=waiting, failed=failed)
            if self.load.is_shared:
                self.load.balance()
            if waiting:
                self._reschedule()

    def _learn_slice(self, batch: Batch, rows: int) -> None:
        """Learn that some rows of a sliced batch need no more time."""
        batch.rows_scored += rows
        self._rows_running -= rows
        self.admission.learn_slice(batch.started_ns, self._now_ns(), rows)

    async def _answer_each(self, batch: Batch) -> bool:
        """Answer a batch; where a layer raises, answer its halves, until each fault is alone with its own call.

        One of 64 is found in 13 runs. Calls that fail together, and have no time left, are answered with an error.
        Returns whether a layer raised.
        """
        waiting, failed = [batch.calls], False
        while waiting:
            calls = waiting.pop()
            part = batch if calls is batch.calls else Batch(calls, self._now_ns(), batch.deadline_ns, batch.suspends)
            try:
                await answer(self.plan, part, self._now_ns)
            except Exception as error:  # of a user's function, on what one caller sent
                failed = True
                half = len(calls) // 2
                if half and self._now_ns() <= max(map(_deadline_of, calls)):
                    waiting += [calls[half:], calls[:half]]
                    continue
                self._fail(part, error)
            self._finish(part)
        return failed

    def _finish(self, batch: Batch) -> None:
        """Deliver a batch and record it. A fault in that is ours: it is logged, and later batches go on.

        A call that has no answer then gets an error from its transport, which looks for such calls once a second.
        """
        if batch.suspends:
            whole = len(batch.marks_ns) > len(LAYERS)  # else it broke off, and its last mark is before its wait
            self.load.leave_sockets(batch.marks_ns[-1] if whole else self._now_ns())
        try:
            deliver(batch)
        except Exception as error:
            self._log_failures("answers were not delivered", len(batch.calls), error)
        finished_ns = self._now_ns()
        for recorder in self._recorders:
            try:
                recorder.record(batch, finished_ns)
            except Exception as error:
                self._log_failures("a batch was not recorded", len(batch.calls), error)

    def _fail(self, batch: Batch, error: Exception) -> None:
        """Give every call of a batch an error."""
        fault = ServerError(f"{type(error).__name__} while answering this request", next="see the server's log")
        batch.errors = dict.fromkeys(range(len(batch.calls)), fault)
        batch.bodies = [b""] * len(batch.calls)
        self._log_failures("calls failed", len(batch.calls), error, batch.calls[0].origin())

    def _log_failures(self, event: str, calls: int, error: Exception, origin: Mapping[str, str] | None = None) -> None:
        """Log a fault, at most once a second, with how many calls it and those before it have cost.

        origin: of one of them.
        """
        self._failures += calls
        now_ns = self._now_ns()
        if now_ns >= self._log_at_ns:
            log = structlog.get_logger()
            facts = {"pipeline": self.plan.name, "calls": self._failures, "error": repr(error), **(origin or {})}
            log.error(event, exc_info=error, **facts)
            self._failures, self._log_at_ns = 0, now_ns + NS_PER_S


async def answer(plan: Plan, batch: Batch, now_ns: Callable[[], int]) -> None:
    """Take a batch through the five layers. Waits only where the batch suspends."""
    mark = batch.marks_ns.append
    mark(batch.started_ns)
    plan.request.run(batch)  # 1 request: calls to rows and columns
    mark(now_ns())
    await plan.features.run(batch)  # 2 features: views in one round trip, then on-demand features
    mark(now_ns())
    await plan.inference.run(batch)  # 3 inference: the model's inputs, and one call of it
    mark(now_ns())
    plan.postprocess.run(batch)  # 4 postprocess: bands, labels, rules
    mark(now_ns())
    plan.response.run(batch)  # 5 response: the bodies
    mark(now_ns())


def drive(run: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine that never suspends to its end, without a task."""
    try:
        run.send(None)
    except StopIteration:
        return
    raise RuntimeError("a batch that says it does not suspend did suspend")
