"""The replies to some commands that were sent in one write, waited for together."""

from __future__ import annotations

import asyncio
from typing import Any


class Round:
    """The replies to some commands; the future is done with the last. A connection that is lost is a reply, too."""

    def __init__(self, count: int, future: asyncio.Future[None]) -> None:
        self.replies: list[Any] = [None] * count
        self.future = future
        self._left = count

    def take(self, index: int, reply: Any) -> None:
        """Put the reply to a command in its place."""
        self.replies[index] = reply
        self._left -= 1
        if not self._left and not self.future.done():
            self.future.set_result(None)


class Reply:
    """What waits for the reply to one command."""

    __slots__ = ("_index", "_round")

    def __init__(self, round_: Round, index: int) -> None:
        self._round = round_
        self._index = index

    def done(self) -> bool:
        """Whether the round has ended without it."""
        return self._round.future.done()

    def set_result(self, reply: Any, /) -> None:
        """Take the reply."""
        self._round.take(self._index, reply)

    set_exception = set_result
