"""The ring that a worker writes to: whichever of its slot's rings no other process writes to.

A ring has one writer. Where two releases stand side by side in a slot, each one's worker takes a ring of its own. The
claim is a lock on the ring's file, which the kernel lets go of with the process, however that ends: its successor goes
on in the ring that it has left.
"""

from __future__ import annotations

import fcntl
import sys
from collections.abc import Sequence
from typing import Final

from tailrace.monitor.ring import RingWriter

RINGS_A_SLOT: Final = 2
"""As many as there may be workers in a slot: of the release that is served, and of the one that is to follow."""


class ClaimedRing:
    """Writes to one ring of some. fds: of the rings. slot: of the worker."""

    def __init__(self, fds: Sequence[int], slot: int) -> None:
        self.slot = slot
        self._fds = tuple(fds)
        self._lost = 0
        self._ring = self._claim()

    @property
    def frame_bytes_max(self) -> int:
        """How long a frame may be; see `RingWriter`. Any length while there is no ring: `write` says so."""
        return sys.maxsize if self._ring is None else self._ring.frame_bytes_max

    def write(self, frame: bytes, items: int = 1) -> bool:
        """Write a frame; see `RingWriter`. Raises BlockingIOError where other processes have all rings."""
        if self._ring is None and (ring := self._claim()) is not None:
            self._ring = ring
            ring.lose(self._lost)
        if self._ring is None:
            raise BlockingIOError("other processes write to all rings of this slot")
        return self._ring.write(frame, items)

    def lose(self, items: int) -> None:
        """Count items that are in no frame to come; where there is no ring yet, once there is one."""
        if self._ring is None:
            self._lost += items
        else:
            self._ring.lose(items)

    def _claim(self) -> RingWriter | None:
        """Return the writer of the first ring that nobody has; None where there is none."""
        for fd in self._fds:
            try:
                fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # of this process: closing any descriptor would end it
            except OSError:
                continue
            return RingWriter(fd)
        return None
