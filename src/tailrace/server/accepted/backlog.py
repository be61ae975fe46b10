"""What a worker has accepted, scored by the engines that serve its live calls, in the time that those leave over.

    take ─▶ wait for room ─▶ note what is in hand ─▶ the pipeline's endpoint ─▶ results on disk ─▶ take

A group is small, so that a live call that comes behind it waits for a part of its budget only, and goes into the
engine as any calls do, into the same batches. It is not let in while a call waits or runs, nor while the loop is busy
for a good part of the time: live calls are never the ones that wait for long. What a server has no time for stays on
disk.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

from tailrace.batch import JSON, Batch, Call, Degraded, Source
from tailrace.deadline import NS_PER_S, Clock
from tailrace.errors import (
    DeadlineExceededError,
    InferenceError,
    ServerError,
    ServingError,
    ShedError,
    StoreError,
    UnavailableError,
)
from tailrace.loop_load import LoopLoad
from tailrace.server.accepted.hand_note import ENDS_MAX, HandNote
from tailrace.server.accepted.journal import SLOTS_MAX, Result, Waiting, accepted_ns
from tailrace.server.accepted.journal_thread import JournalThread
from tailrace.server.accepted.payload import result_of
from tailrace.server.endpoint import CallEndpoint, Endpoint

GROUP_MAX: Final = 32
"""Requests scored together."""
BUDGET_SHARE: Final = 20
"""A group is expected to take one in so many parts of its pipeline's budget: so long a live call waits for it."""
LOOK_S: Final = 0.005
BUSY_SHARE_MAX: Final = 0.5
"""Of the time since the last look, what the loop may have been at work for a group to go in."""
IDLE_S: Final = 1.0
"""How often the journal is looked at without a word: a sibling may have left something."""
TRIES_MAX: Final = 3
RETRY_S: Final = 1.0
LINGER_S: Final = 0.005
"""How long results wait for a request that is accepted, to be on disk with it."""
LOST_S: Final = 2.0
"""How much longer than its budget an answer is waited for."""


class AcceptedCall(Call, gc=False, eq=False):
    """A call whose answer goes into the journal.

    outcome: its JSON, or why there is none; None until then. is_final: whether it is not tried again, whatever it is.
    """

    entry: Waiting
    slot: int
    outcome: bytes | ServingError | None = None
    is_final: bool = False
    degraded: tuple[str, ...] = ()

    @property
    def callers(self) -> bytes:
        """The scope of its caller."""
        return self.entry.callers

    def source(self) -> Source:
        """Return its caller's id; where its caller is, is not kept."""
        return self.entry.request_id.encode(), b"", b""


class Backlog:
    """Scores what waits in the journal for one worker; the transport of its calls.

    slot, slots: of the worker, and how many there are: what others left that are gone is shared out among those that
    are there. endpoints: by pipeline. release: that is served.
    """

    def __init__(
        self, thread: JournalThread, slot: int, slots: int, endpoints: Mapping[str, Endpoint], load: LoopLoad,
        clock: Clock, release: str, log: Any,
    ) -> None:  # fmt: skip
        self._thread = thread
        self._journal = thread.journal
        self._retention_ns = thread.journal.retention_ns
        self._note = HandNote(thread.journal.path, slot)
        self._slots = range(slot, SLOTS_MAX, slots)
        self._endpoints = endpoints
        self._load = load
        self._clock = clock
        self._release = release
        self._log = log
        self._woken, self._answered = asyncio.Event(), asyncio.Event()
        self._open = 0
        self._ends: dict[str, int] = {}
        self._tries: dict[str, int] = {}
        self._later_ns: dict[str, int] = {}
        self._is_stopping = False
        self._retry_ns = int(RETRY_S * NS_PER_S)

    def wake(self) -> None:
        """Look into the journal: something waits."""
        self._woken.set()

    def stop(self) -> None:
        """Take nothing any more; what is in hand is finished."""
        self._is_stopping = True
        self._woken.set()

    async def run(self) -> None:
        """Score until it is to stop."""
        self._ends = self._note.read()
        while not self._is_stopping:
            self._woken.clear()
            try:
                taken = await self._thread.do(self._take)
                if taken:
                    await self._score(taken)
                    continue
            except StoreError as error:
                self._log.error("accepted requests cannot be scored", cause=str(error))
                await asyncio.sleep(RETRY_S)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), IDLE_S)

    # -- on the journal's thread ------------------------------------------------------------------------------------

    def _take(self, transaction: Any) -> list[tuple[int, Waiting]]:
        """Return what is scored next, of one pipeline; it stays in the journal.

        Requests of pipelines that are not served wait for a release that has them, and hold up no others.
        """
        now_ns = self._clock.now_ns()
        skipped = {each for each, due_ns in dict(self._later_ns).items() if due_ns > now_ns}
        found = self._journal.take(self._slots, GROUP_MAX, skipped, transaction, self._endpoints)
        if not found:
            return []
        pipeline = found[0][1].pipeline
        group = [each for each in found if each[1].pipeline == pipeline][: self._group_max(pipeline)]
        suspects = [each for each in group if each[1].id in self._ends]
        return suspects[:1] or group

    def _group_max(self, pipeline: str) -> int:
        """Return how many requests of a pipeline go in together."""
        engine = self._endpoints[pipeline].engine
        return max(1, min(GROUP_MAX, int(engine.budget_ns / BUDGET_SHARE / engine.admission.row_ns)))

    def _note_hand(self, ids: Sequence[str], transaction: Any) -> None:
        """Note that requests are in hand from now on."""
        self._note.write({each: self._ends.get(each, 0) for each in ids})

    def _finish(self, finished: Sequence[tuple[int, Result]], transaction: Any) -> int:
        """Put results in the place of their requests, of which none is in hand any more; return how many."""
        self._note.write({})
        return sum(self._journal.finish(slot, result, transaction) for slot, result in finished)

    # -- on the loop ------------------------------------------------------------------------------------------------

    async def _score(self, taken: Sequence[tuple[int, Waiting]]) -> None:
        """Score some requests, and have what comes of them on disk."""
        endpoint = self._endpoints[taken[0][1].pipeline]
        calls = [AcceptedCall(self, None, None, 0, 0, 1, entry, slot) for slot, entry in taken]
        for call in calls:
            if self._ends.get(call.entry.id, 0) >= ENDS_MAX:
                call.outcome = InferenceError(f"{ENDS_MAX} processes have ended while they answered this request")
                call.is_final = True
        if any(not call.is_final for call in calls):
            await self._wait_for_room(min(accepted_ns(entry.id) for _, entry in taken) + self._retention_ns)
        for call in calls:
            if self._clock.wall_ns() >= accepted_ns(call.entry.id) + self._retention_ns and not call.is_final:
                call.outcome = DeadlineExceededError(
                    "the server has had no time for this request since it was accepted"
                )
                call.is_final = True
        if waiting := [call for call in calls if not call.is_final]:
            await self._thread.do(partial(self._note_hand, [call.entry.id for call in waiting]))
            await self._answer_all(waiting, endpoint)
        now_ns = self._clock.wall_ns()
        finished = [
            (call.slot, result_of(call.entry, outcome, call.degraded, self._release, now_ns))
            for call in calls
            if (outcome := self._final(call)) is not None
        ]
        while True:
            try:
                await self._thread.do(partial(self._finish, finished), linger_s=LINGER_S)
                break
            except StoreError as error:
                self._log.error("results are not on disk yet", results=len(finished), cause=str(error))
                await asyncio.sleep(RETRY_S)
        for call in calls:
            self._ends.pop(call.entry.id, None)

    async def _wait_for_room(self, until_ns: int) -> None:
        """Wait until no live call waits or runs, and the loop has time to spare; until_ns: at most, since the epoch."""
        while not self._is_stopping and self._clock.wall_ns() < until_ns:
            began_s, busy_s = time.monotonic(), time.thread_time()
            await asyncio.sleep(LOOK_S)
            share = (time.thread_time() - busy_s) / (time.monotonic() - began_s)
            if share <= BUSY_SHARE_MAX and not self._load.rows:
                return

    async def _answer_all(self, calls: Sequence[AcceptedCall], endpoint: Endpoint) -> None:
        """Give calls to their endpoint, and wait for their answers."""
        self._answered.clear()
        self._open = len(calls)
        for call in calls:
            refusal = self._give(call, endpoint)
            if refusal is not None:
                self._settle(call, refusal)
        if self._open:
            limit_s = endpoint.budget_ns / NS_PER_S + LOST_S
            with suppress(TimeoutError):
                await asyncio.wait_for(self._answered.wait(), limit_s)
        for call in calls:
            if call.outcome is None:  # what comes after all is for nobody
                call.outcome = ServerError("the answer was lost", next="see the server's log")

    def _give(self, call: AcceptedCall, endpoint: Endpoint) -> ServingError | None:
        """Give a call to its endpoint as its caller would; return why it is refused."""
        entry = call.entry
        try:
            speaking: CallEndpoint = endpoint.speaking(entry.content_type, JSON, entry.coding)
        except ServingError as error:
            return error
        return speaking.accept(call, entry.body, endpoint.budget_ns)

    def _settle(self, call: AcceptedCall, outcome: bytes | ServingError) -> None:
        """Take in what has come of a call, once."""
        if call.outcome is None:
            call.outcome = outcome
            self._open -= 1
            if not self._open:
                self._answered.set()

    def _final(self, call: AcceptedCall) -> bytes | ServingError | None:
        """Return what is delivered of a call; None where it is tried again."""
        entry_id, outcome = call.entry.id, call.outcome
        if isinstance(outcome, ServingError) and outcome.status >= 500 and not call.is_final:
            if not isinstance(outcome, ShedError | UnavailableError):  # which say nothing of the request
                self._tries[entry_id] = self._tries.get(entry_id, 0) + 1
            if self._tries.get(entry_id, 0) < TRIES_MAX:
                self._later_ns[entry_id] = self._clock.now_ns() + self._retry_ns
                return None
        self._tries.pop(entry_id, None)
        self._later_ns.pop(entry_id, None)
        return outcome

    # -- the transport of its calls ---------------------------------------------------------------------------------

    def deliver(self, batch: Batch, places: Sequence[int]) -> None:
        """Take the answers of calls that went through in a batch."""
        for place in places:
            call: Any = batch.calls[place]
            error = batch.errors.get(place)
            call.degraded = _degraded(batch, place)
            self._settle(call, batch.bodies[place] if error is None else error)

    def refuse(self, call: Call, error: ServingError) -> None:
        """Take the refusal of a call."""
        accepted: Any = call
        self._settle(accepted, error)


def _degraded(batch: Batch, place: int) -> tuple[str, ...]:
    """Return why the answer to a call is degraded."""
    if batch.degraded is None:
        return ()
    bits = 0
    for row in batch.degraded[batch.rows_of_call(place)]:
        bits |= int(row)
    return tuple(reason.name.lower() for reason in Degraded if bits & reason and reason.name)
