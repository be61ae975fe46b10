"""The replies to some commands that were sent to one Redis in one write, waited for together."""

from __future__ import annotations

import asyncio
from typing import Any


class Replies:
    """Stands in line once for each of some commands. A connection that is lost is a reply, too.

    future: done with all replies, in order, once the last is there.
    """

    __slots__ = ("_count", "_future", "_replies")

    def __init__(self, count: int, future: asyncio.Future[list[Any]]) -> None:
        self._count = count
        self._future = future
        self._replies: list[Any] = []

    def done(self) -> bool:
        """Whether nobody waits any more."""
        return self._future.done()

    def set_result(self, reply: Any, /) -> None:
        """Take the next reply."""
        self._replies.append(reply)
        if len(self._replies) == self._count:
            self._future.set_result(self._replies)

    set_exception = set_result
