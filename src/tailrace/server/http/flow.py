"""Flow control of one connection: a client that sends much takes turns, and one that does not read is not read.

Made when a connection first needs it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

PIPELINE_MAX: Final = 64
"""Calls of one connection in flight before it is no longer read."""


class Flow:
    """What a client must wait for before more of it is read.

    unread: bytes received that wait for a turn. stuck_s: since which second the client reads no answers; -1 while it
    does. read: takes them up; owed: says how many answers the client is owed.
    """

    __slots__ = ("_is_paused", "_is_turn_due", "_is_waiting", "_owed", "_read", "_transport", "stuck_s", "unread")

    def __init__(self, transport: asyncio.Transport, read: Callable[[bytes], None], owed: Callable[[], int]) -> None:
        self.unread = b""
        self.stuck_s = -1
        self._transport = transport
        self._read = read
        self._owed = owed
        self._is_paused = self._is_turn_due = self._is_waiting = False

    @property
    def is_paused(self) -> bool:
        """Whether the client is not read."""
        return self._is_paused

    def hold(self, data: bytes) -> None:
        """Keep what has been received for the next turn, and receive no more until then."""
        self.unread += data
        self.pause()
        self._ask_for_turn()

    def wait(self, data: bytes) -> None:
        """Keep what has been received until `go_on`, and receive no more until then."""
        self.unread += data
        self._is_waiting = True
        self.pause()

    def go_on(self) -> None:
        """Take the turn that was waited for."""
        self._is_waiting = False
        self._take_turn()

    def pause(self) -> None:
        """Receive no more for now."""
        if not self._is_paused and not self._transport.is_closing():
            self._is_paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Receive again, if the answers need not go first; what waits for a turn comes before."""
        if not self._is_paused or self._is_waiting or not self._has_room() or self._transport.is_closing():
            return
        if self.unread:
            self._ask_for_turn()
        else:
            self._is_paused = False
            self._transport.resume_reading()

    def _ask_for_turn(self) -> None:
        if not self._is_turn_due:
            self._is_turn_due = True
            asyncio.get_running_loop().call_soon(self._take_turn)

    def _take_turn(self) -> None:
        """Read on, unless the answers must go first: then `resume` asks for a turn."""
        self._is_turn_due = False
        if self._is_waiting or not self._has_room() or self._transport.is_closing():
            return
        data, self.unread = self.unread, b""
        self._read(data)
        if not self.unread:
            self.resume()

    def _has_room(self) -> bool:
        """Say whether more requests may be read: the client reads its answers, and few are owed."""
        return self.stuck_s < 0 and self._owed() <= PIPELINE_MAX // 2
