"""A call of any number of messages: what its method reads and writes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from grpc._cython import cygrpc

from tailrace.server.grpc.core import Core, Rpc


class Stream:
    """The messages of one call, from its client and to it. Cancelled where the client leaves, or the server."""

    def __init__(self, core: Core, rpc: Rpc) -> None:
        self.rpc = rpc
        self._core = core
        self._loop = asyncio.get_running_loop()
        self._has_begun = False

    def watch(self, task: asyncio.Task[None]) -> None:
        """Have the method's task cancelled when the client leaves."""
        leave = cygrpc.ReceiveCloseOnServerOperation(0)
        self._core.start(self.rpc, (leave,), lambda event: self._on_close(task))

    async def read(self) -> bytes | None:
        """Return the next message; None where there is no more."""
        event = await self._do(cygrpc.ReceiveMessageOperation(0))
        message: bytes | None = event.batch_operations[0].message()
        return message

    async def messages(self) -> AsyncIterator[bytes]:
        """Yield all messages of the client."""
        while (message := await self.read()) is not None:
            yield message

    async def write(self, message: bytes) -> None:
        """Send a message, once the one before it is on its way."""
        begin = () if self._has_begun else (cygrpc.SendInitialMetadataOperation(None, 0),)
        self._has_begun = True
        await self._do(*begin, cygrpc.SendMessageOperation(message, 0))

    def end(self, code: int, details: str) -> None:
        """Send the status."""
        begin = () if self._has_begun else (cygrpc.SendInitialMetadataOperation(None, 0),)
        status = cygrpc.SendStatusFromServerOperation(None, code, details.encode(), 0)
        self._core.start(self.rpc, (*begin, status), lambda event: None)

    async def _do(self, *operations: Any) -> Any:
        """Begin something, and wait for its event."""
        done: asyncio.Future[Any] = self._loop.create_future()
        self._core.start(self.rpc, operations, lambda event: self._wake(done, event))
        return await done

    def _wake(self, done: asyncio.Future[Any], event: Any) -> None:
        """Hear, in the thread, of what was begun."""
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(_tell, done, event)

    def _on_close(self, task: asyncio.Task[None]) -> None:
        """Hear, in the thread, that the call is over for its client."""
        self._core.on_left(self.rpc)
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(task.cancel)


def _tell(done: asyncio.Future[Any], event: Any) -> None:
    if not done.done():
        done.set_result(event)
