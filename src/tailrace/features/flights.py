"""Single flight: of each key at most one read is under way, and all batches that want it wait for that one.

A flight is a task of its own, and may take longer than its first batch has: a batch that gives up, or is cancelled,
costs the others nothing, and an answer that comes too late for one batch is in time for the next. A batch joins only a
flight that may take as long as the batch itself can wait: nobody gets defaults because somebody else was in a hurry.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

from tailrace.deadline import NS_PER_MS, NS_PER_S, Clock
from tailrace.errors import StoreError
from tailrace.features.stores.protocol import Fetch

FLIGHT_SLACK_NS: Final = 100 * NS_PER_MS
"""How much longer a flight may take than its first batch can wait, and so for how long others can join it."""

FLIGHTS_MAX: Final = 64
"""At once; where there are more, the store is taken to be late."""
REFRESHES_MAX: Final = FLIGHTS_MAX // 2
"""So many under way leave room only for what a batch waits for: what is kept can be read anew later."""


class Flight:
    """One read that is under way.

    ttls_ns: its keys, each with how long its row may be kept (0: not at all). due_ns: when its first batch needs it;
    deadline_ns: when it is given up. rows: by key, once it is over; error: why there are none. is_counted: whether the
    breaker knows of it.
    """

    __slots__ = ("_waiters", "began_ns", "deadline_ns", "due_ns", "error", "is_counted", "is_over", "rows", "ttls_ns")

    def __init__(self, ttls_ns: Mapping[bytes, int], began_ns: int, due_ns: int) -> None:
        self.ttls_ns = ttls_ns
        self.began_ns = began_ns
        self.due_ns = due_ns
        self.deadline_ns = due_ns + FLIGHT_SLACK_NS
        self.rows: dict[bytes, bytes | None] = {}
        self.error: Exception | None = None
        self.is_over = self.is_counted = False
        self._waiters: list[asyncio.Future[None]] = []

    async def wait(self, left_ns: int) -> None:
        """Wait until it is over, `left_ns` at most. Cancelled, only this wait ends."""
        if self.is_over or left_ns <= 0:
            return
        loop = asyncio.get_running_loop()
        waiter = loop.create_future()
        self._waiters.append(waiter)
        timer = loop.call_later(left_ns / NS_PER_S, _wake, waiter)
        try:
            await waiter
        finally:
            timer.cancel()

    def end(self) -> None:
        """Wake all that wait."""
        self.is_over = True
        for waiter in self._waiters:
            _wake(waiter)
        self._waiters.clear()


class Flights:
    """The flights to one store.

    land: is called with each that is over, before its batches go on, with the keys whose rows may be kept: not those of
    which a later flight has begun meanwhile.
    """

    def __init__(self, fetch: Fetch, clock: Clock, land: Callable[[Flight, list[bytes]], None]) -> None:
        self._fetch = fetch
        self._now_ns = clock.now_ns
        self._land = land
        self._flights: dict[bytes, Flight] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def find(self, key: bytes, deadline_ns: int) -> Flight | None:
        """Return the flight of a key for a batch that can wait until then; None where none may take so long."""
        flight = self._flights.get(key)
        return None if flight is None or flight.deadline_ns < deadline_ns else flight

    def has_room(self, *, is_awaited: bool) -> bool:
        """Say whether one more may start. is_awaited: whether a batch would wait for it."""
        return len(self._tasks) < (FLIGHTS_MAX if is_awaited else REFRESHES_MAX)

    def start(self, ttls_ns: Mapping[bytes, int], due_ns: int) -> Flight:
        """Begin to read keys; those whose row may not be kept are read for this batch alone."""
        flight = Flight(ttls_ns, self._now_ns(), due_ns)
        for key, ttl_ns in ttls_ns.items():
            if ttl_ns:
                self._flights[key] = flight
        task = asyncio.get_running_loop().create_task(self._fly(flight))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return flight

    async def _fly(self, flight: Flight) -> None:
        keys = list(flight.ttls_ns)
        try:
            flight.rows = dict(zip(keys, await self._fetch(keys, flight.deadline_ns), strict=True))
        except (TimeoutError, ConnectionError, StoreError) as error:
            flight.error = error.with_traceback(None)  # which would hold this frame, and that the flight
        except BaseException as error:  # cancelled, or a fault of the store's own: its batches must not wait for it
            flight.error = StoreError(f"{type(error).__name__} while reading: {error}")
            raise
        finally:
            last = [key for key in keys if self._flights.get(key) is flight]
            for key in last:
                del self._flights[key]
            try:
                self._land(flight, last)
            finally:
                flight.end()


def _wake(waiter: asyncio.Future[Any]) -> None:
    if not waiter.done():
        waiter.set_result(None)
