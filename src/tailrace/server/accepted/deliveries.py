"""Results on their way to where their pipeline declares: each tried until it has arrived, or its time is over.

    new ─▶ wait for a lane, and for the breaker ─▶ send ─▶ removed from the journal
                   ▲────────── wait, longer each time ──────┤ a failure
                                                            └▶ set aside: 410, or past the deadline

Each pipeline has its share of what may be under way: a receiver that is gone for a day keeps no other's results.
What is sent and not yet removed when a process ends is sent again by the next one, under the same id.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from tailrace.breaker import Breaker
from tailrace.deadline import NS_PER_S, MonotonicClock, parse_duration
from tailrace.errors import StoreError
from tailrace.response.destinations import Destination, Webhook
from tailrace.server.accepted.journal import Result
from tailrace.server.accepted.journal_thread import JournalThread
from tailrace.server.accepted.redis_stream import LANES, RedisStreamSender
from tailrace.server.accepted.secrets import Secrets
from tailrace.server.accepted.sending import Sender, SendError, wait_before
from tailrace.server.accepted.webhook import WebhookSender
from tailrace.signature import signed_headers

BREAKER_LOOK_S: Final = 0.25
JOURNAL_RETRY_S: Final = 1.0
LINGER_S: Final = 0.05
"""How long what has arrived waits to be removed together: for so long a process that is killed sends it again."""
LOG_EVERY_S: Final = 10.0
UNDER_WAY_MAX: Final = 1_000
"""Results that are under way at once, those that wait for another try too."""
BYTES_MAX: Final = 64 << 20
"""The same for their bytes; and how many are taken of a pipeline at once, before the bytes are looked at."""
TAKEN_MAX: Final = 64


class Route:
    """The way to one pipeline's destination: its sender, secrets, lanes and breaker.

    count: is called with what has become of a try: delivered, retried, set_aside.
    """

    def __init__(
        self, destination: Destination, sender: Sender, secrets: Secrets, count: Callable[[str], None], log: Any
    ) -> None:
        self.sender = sender
        self._secrets = secrets
        self._count = count
        self._log = log
        self._deadline_ns = parse_duration(destination.deadline)
        self._lanes = asyncio.Semaphore(destination.connections_max if isinstance(destination, Webhook) else LANES)
        self._clock = MonotonicClock()
        self._breaker = Breaker(self._clock, lost_ns=parse_duration(destination.timeout))
        self._logged_s = -LOG_EVERY_S

    async def deliver(self, result: Result) -> str:
        """Try a result until it has arrived; return "", or why it never will."""
        tries = 0
        while True:
            fault = await self._try(result)
            if fault is None:
                self._count("delivered")
                return ""
            tries += 1
            wait_s = max(wait_before(tries), fault.wait_s)
            is_over = time.time_ns() + int(wait_s * NS_PER_S) > result.made_ns + self._deadline_ns
            if fault.is_final or is_over:
                self._count("set_aside")
                self._tell("a result is set aside", result, fault, tries)
                return str(fault)
            self._count("retried")
            self._tell("a result is not delivered yet", result, fault, tries)
            await asyncio.sleep(wait_s)

    async def _try(self, result: Result) -> SendError | None:
        """Send a result once, in its turn; return what went wrong."""
        async with self._lanes:
            while not self._breaker.allows():
                await asyncio.sleep(BREAKER_LOOK_S * (0.5 + random.random()))
            headers = signed_headers(self._secrets.now(), result.id, int(time.time()), result.body)
            fault = None
            try:
                await self.sender.send(headers, result.body)
            except SendError as error:
                fault = error
            except Exception as error:  # a fault of ours must not lose a result
                fault = SendError(repr(error))
            self._breaker.note(self._clock.now_ns(), is_failure=fault is not None and not fault.is_final)
            return fault

    def _tell(self, event: str, result: Result, fault: SendError, tries: int) -> None:
        """Log a failure, once in a while: a receiver that is gone fails them all."""
        if (now_s := time.monotonic()) - self._logged_s >= LOG_EVERY_S:
            self._logged_s = now_s
            self._log.warning(
                event, pipeline=result.pipeline, id=result.id, to=self.sender.where, cause=str(fault), tries=tries
            )


class Deliveries:
    """The results that are on their way. under_way: their ids, which nobody begins anew."""

    def __init__(self, thread: JournalThread, routes: dict[str, Route], ended: Callable[[], None], log: Any) -> None:
        self.under_way: dict[str, asyncio.Task[None]] = {}
        self._thread = thread
        self._routes = routes
        self._counts, self._bytes = dict.fromkeys(routes, 0), dict.fromkeys(routes, 0)
        self._ended = ended
        self._log = log

    def rooms(self) -> dict[str, int]:
        """Return how many results of each pipeline may be begun now."""
        share, bytes_max = max(UNDER_WAY_MAX // len(self._routes), 1), BYTES_MAX // len(self._routes)
        return {
            each: 0 if self._bytes[each] > bytes_max else min(share - count, TAKEN_MAX)
            for each, count in self._counts.items()
        }

    def begin(self, result: Result) -> None:
        """Deliver a result; one of a pipeline that declares no destination any more is set aside."""
        self._count(result, 1)
        self.under_way[result.id] = asyncio.get_running_loop().create_task(self._deliver(result))

    def _count(self, result: Result, sign: int) -> None:
        """Count a result as under way, or no more."""
        if result.pipeline in self._counts:
            self._counts[result.pipeline] += sign
            self._bytes[result.pipeline] += sign * len(result.body)

    async def _deliver(self, result: Result) -> None:
        route = self._routes.get(result.pipeline)
        reason = "its pipeline declares no results" if route is None else await route.deliver(result)
        journal = self._thread.journal
        work = partial(journal.set_aside, result, reason) if reason else partial(journal.remove, result)
        while True:  # it is not sent again for a disk that is full
            try:
                await self._thread.do(work, linger_s=LINGER_S)
                break
            except StoreError as error:
                self._log.error("a delivery is not on disk yet", id=result.id, cause=str(error))
                await asyncio.sleep(JOURNAL_RETRY_S)
        del self.under_way[result.id]
        self._count(result, -1)
        self._ended()

    def stop(self) -> None:
        """Leave what is under way to the next process."""
        for task in self.under_way.values():
            task.cancel()
        for route in self._routes.values():
            route.sender.close()


def sender_of(destination: Destination) -> Sender:
    """Return what sends to a destination."""
    return WebhookSender(destination) if isinstance(destination, Webhook) else RedisStreamSender(destination)
