"""The thread on which handshakes are computed: a signature takes as long as twenty requests."""

from __future__ import annotations

import asyncio
import ssl
from queue import SimpleQueue
from threading import Thread
from typing import Final, Protocol

from tailrace.core_share import stand_back

NICE: Final = 5
"""Of the thread: a third of a core that the loop wants whole."""


class Shaking(Protocol):
    """A handshake."""

    def step(self) -> bool:
        """Go on; return whether it is done. Raises ssl.SSLError. Called in the thread."""
        ...

    def stepped(self, *, done: bool, fault: ssl.SSLError | None) -> None:
        """Hear how a step ended. Called on the loop."""
        ...


class HandshakeThread:
    """One thread for all handshakes of a loop, in their turns; each waits for at most one step."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: SimpleQueue[Shaking | None] = SimpleQueue()
        Thread(target=self._work, name="handshakes", daemon=True).start()

    def advance(self, handshake: Shaking) -> None:
        """Have a handshake go on."""
        self._waiting.put(handshake)

    def close(self) -> None:
        """End the thread once it has done what waits."""
        self._waiting.put(None)

    def _work(self) -> None:
        stand_back(NICE)
        while (handshake := self._waiting.get()) is not None:
            done, fault = False, None
            try:
                done = handshake.step()
            except ssl.SSLError as error:
                fault = error.with_traceback(None)
            try:
                self._loop.call_soon_threadsafe(_tell, handshake, done, fault)
            except RuntimeError:  # the loop has ended
                return


def _tell(handshake: Shaking, done: bool, fault: ssl.SSLError | None) -> None:
    """Tell a handshake how its step ended."""
    handshake.stepped(done=done, fault=fault)
