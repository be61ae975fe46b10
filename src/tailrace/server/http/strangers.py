"""How often connections are read on which a wrong key was shown: a few in each short time, all of them together.

To refuse costs what a decision does. Ten thousand wrong keys a second over fifty connections took a third of a core,
and the p99 of the callers beside them was 4.5 ms where 1 ms is usual. So they wait in line, and who guesses is slowed
down:

    read ─▶ wrong key ─▶ 401 ─▶ more comes ─▶ its place in the line ─▶ at most READS_MAX each SLICE_S ─▶ read

A connection that has shown a right key never waits here, nor does that of a proxy that is listed: callers share them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

SLICE_S: Final = 0.0025
READS_MAX: Final = 4
"""Reads in a slice, each of a request or two (`STRANGER_BYTES_MAX`)."""


class Strangers:
    """The line of those who wait. Each connection is in it once, so it is no longer than there may be connections."""

    def __init__(self) -> None:
        self._left = READS_MAX
        self._waiting: deque[Callable[[], None]] = deque()
        self._is_due = False

    def let(self, go_on: Callable[[], None]) -> bool:
        """Say whether a connection may be read now; else have it go on when its turn comes."""
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_later(SLICE_S, self._begin_slice)
        if self._left and not self._waiting:
            self._left -= 1
            return True
        self._waiting.append(go_on)
        return False

    def _begin_slice(self) -> None:
        """Let the first in line go on."""
        self._is_due = bool(self._waiting)
        if self._is_due:
            asyncio.get_running_loop().call_later(SLICE_S, self._begin_slice)
        waiting = self._waiting
        taken = [waiting.popleft() for _ in range(min(READS_MAX, len(waiting)))]
        self._left = READS_MAX - len(taken)
        for go_on in taken:
            go_on()
