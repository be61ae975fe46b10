"""Accepts on a socket that several processes share: what `UnixSocket` gives to every worker."""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
import time
from collections.abc import Callable
from threading import Thread
from typing import Any, Final

from tailrace.server.slots import shut_listener

_LOOK_S: Final = 1
"""How often a thread that waits looks whether it is to end; a socket that is shut ends it at once."""
_PAUSE_S: Final = 1.0
"""How long one waits that has no file, or no memory, for a connection."""
_NOT_NOW: Final = frozenset((errno.EAGAIN, errno.EINTR, errno.ECONNABORTED))
_SPENT: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


class Acceptor:
    """Makes connections of what comes on a listening socket, until it drains.

    A thread waits in accept(2), since the kernel gives turns to those who wait there. Of loops that wait in epoll the
    same one wakes first, and takes every connection while it is idle.
    """

    def __init__(self, listener: socket.socket, protocol: Callable[[], asyncio.Protocol]) -> None:
        listener.setblocking(True)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", _LOOK_S, 0))
        self._listener = listener
        self._protocol = protocol
        self._loop = asyncio.get_running_loop()
        self._making: set[asyncio.Task[Any]] = set()
        self._is_draining = False
        self._ended = asyncio.Event()
        Thread(target=self._accept, name="acceptor", daemon=True).start()

    async def drain(self, *, shut: bool) -> None:
        """Take what waits, and then nothing more. shut: refuse all that come after, for the other processes too."""
        self._is_draining = True
        if shut:
            shut_listener(self._listener)
        await self._ended.wait()
        await asyncio.gather(*self._making, return_exceptions=True)
        self._listener.close()

    def _accept(self) -> None:
        """Accept until nothing waits in a socket that is shut, or in any while this drains. Runs in the thread."""
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError as error:
                if self._is_draining or error.errno not in _NOT_NOW | _SPENT:
                    break
                if error.errno in _SPENT:
                    time.sleep(_PAUSE_S)
            else:
                self._loop.call_soon_threadsafe(self._make, sock)
        self._loop.call_soon_threadsafe(self._ended.set)

    def _make(self, sock: socket.socket) -> None:
        """Make a connection."""
        sock.setblocking(False)
        making = self._loop.create_task(self._loop.connect_accepted_socket(self._protocol, sock))
        self._making.add(making)
        making.add_done_callback(self._made)

    def _made(self, making: asyncio.Task[Any]) -> None:
        """Forget the making of a connection; of one that has failed the client sees the end."""
        self._making.discard(making)
        if not making.cancelled():
            making.exception()
