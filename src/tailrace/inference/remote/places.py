"""The places of calls at a remote model's server: so many are under way at once, and who finds none waits in order.

A batch of many parts asks for one place after another. Its first parts, as many as there are places, go before the
later parts of any other: a small batch waits for calls under way, not for all of a large one. Among equals the earliest
deadline goes first.
"""

from __future__ import annotations

import asyncio
from heapq import heappop, heappush
from itertools import count

from tailrace.deadline import NS_PER_S, Clock


class CallPlaces:
    """The places of one stage. places_max: calls under way at once. Each batch waits once at most."""

    def __init__(self, places_max: int, clock: Clock) -> None:
        self._places_max = self._free = places_max
        self._now_ns = clock.now_ns
        self._waiting: list[tuple[int, int, int, asyncio.Future[bool]]] = []
        self._orders = count()

    async def take(self, deadline_ns: int, taken: int = 0) -> bool:
        """Take a place, or wait for one; return whether one was free before the deadline.

        taken: places that the batch has had before.
        """
        left_ns = deadline_ns - self._now_ns()
        if left_ns <= 0:
            return False
        if self._free:
            self._free -= 1
            return True
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[bool] = loop.create_future()
        heappush(self._waiting, (taken // self._places_max, deadline_ns, next(self._orders), waiter))
        timer = loop.call_later(left_ns / NS_PER_S, _expire, waiter)
        try:
            return await waiter
        except BaseException:
            if waiter.done() and not waiter.cancelled() and waiter.result():
                self.give_back()
            raise
        finally:
            timer.cancel()

    def give_back(self, _: object = None) -> None:
        """Give a place to who is first of those who wait, or keep it."""
        while self._waiting:
            *_, waiter = heappop(self._waiting)
            if not waiter.done():
                waiter.set_result(True)
                return
        self._free += 1


def _expire(waiter: asyncio.Future[bool]) -> None:
    """Tell who waits that the time is over."""
    if not waiter.done():
        waiter.set_result(False)
