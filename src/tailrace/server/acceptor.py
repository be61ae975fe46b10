"""Accepts on a socket that several processes share: what `UnixSocket` gives to every worker."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import Any, Final

from tailrace.server.slots import BACKLOG, shut_listener

_PAUSE_S: Final = 1.0
"""How long one waits that has no file, or no memory, for a connection."""
_NOT_NOW: Final = frozenset((errno.EAGAIN, errno.EINTR, errno.ECONNABORTED))
_SPENT: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


class Acceptor:
    """Makes connections of what comes on a listening socket, until it drains.

    One is taken a turn of the loop: all processes hear of a burst, and each that is free takes a part of it. The loop's
    own servers take what they can get.
    """

    def __init__(self, listener: socket.socket, protocol: Callable[[], asyncio.Protocol]) -> None:
        self._listener = listener
        self._protocol = protocol
        self._loop = asyncio.get_running_loop()
        self._making: set[asyncio.Task[Any]] = set()
        self._pause: asyncio.TimerHandle | None = None
        listener.setblocking(False)
        self._read()

    async def drain(self, *, shut: bool) -> None:
        """Take what waits, and then nothing more. shut: refuse all that come after, for the other processes too."""
        self._stop()
        if shut:
            shut_listener(self._listener)
        for _ in range(BACKLOG):
            if not self._accept():
                break
        self._stop()
        await asyncio.gather(*self._making, return_exceptions=True)
        self._listener.close()

    def _read(self) -> None:
        """Hear of connections."""
        self._loop.add_reader(self._listener, self._accept)

    def _stop(self) -> None:
        """Hear of no connection."""
        self._loop.remove_reader(self._listener)
        if self._pause is not None:
            self._pause.cancel()

    def _accept(self) -> bool:
        """Take one connection; return whether there was one: a sibling may have been first."""
        try:
            sock, _ = self._listener.accept()
        except OSError as error:
            if error.errno not in _NOT_NOW:
                self._stop()
            if error.errno in _SPENT:
                self._pause = self._loop.call_later(_PAUSE_S, self._read)
            return False
        sock.setblocking(False)
        making = self._loop.create_task(self._loop.connect_accepted_socket(self._protocol, sock))
        self._making.add(making)
        making.add_done_callback(self._made)
        return True

    def _made(self, making: asyncio.Task[Any]) -> None:
        """Forget the making of a connection; of one that has failed the client sees the end."""
        self._making.discard(making)
        if not making.cancelled():
            making.exception()
