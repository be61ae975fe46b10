"""A TCP proxy before a real Redis that makes the faults of a network, and heals them, while connections are open."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress

READY_S_MAX = 10.0
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class _Link:
    """One relayed connection. is_dead: something of it was swallowed, so that nothing more can pass."""

    def __init__(self) -> None:
        self.writers: list[asyncio.StreamWriter] = []
        self.is_dead = False

    def reset(self) -> None:
        """End it with a reset rather than a goodbye."""
        for writer in self.writers:
            with suppress(OSError):
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            writer.transport.abort()


class FaultProxy:
    """Relays connections on a port of its own to one of the loopback; on a thread, since Redis is asked from any.

    One fault at a time; `heal` ends it.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self.port = 0
        self._delay_s = 0.0
        self._piece_bytes = 0
        self._resets = self._swallows = False
        self._links: dict[asyncio.Task[None], _Link] = {}
        self._flapping: asyncio.Task[None] | None = None
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(ready)), name="fault-proxy")
        self._thread.start()
        assert ready.wait(READY_S_MAX)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def links(self) -> int:
        """How many connections it holds."""
        return len(self._links)

    def delay(self, seconds: float) -> None:
        """Hand each reply on so much later."""
        self._delay_s = seconds

    def pieces(self, piece_bytes: int = 1) -> None:
        """Hand replies on in pieces."""
        self._piece_bytes = piece_bytes

    def stop(self) -> None:
        """Hold everything back, until it heals."""
        self._do(self._flowing.clear)

    def flap(self, half_s: float = 0.5) -> None:
        """Stop and go, each for so long."""

        async def stop_and_go() -> None:
            while True:
                self._flowing.clear()
                await asyncio.sleep(half_s)
                self._flowing.set()
                await asyncio.sleep(half_s)

        def begin() -> None:
            self._flapping = asyncio.get_running_loop().create_task(stop_and_go())

        self._do(begin)

    def reset(self) -> None:
        """Reset all connections, and each new one."""

        def begin() -> None:
            self._resets = True
            for link in self._links.values():
                link.reset()

        self._do(begin)

    def black_hole(self) -> None:
        """Swallow everything, new connections' greetings too; what was swallowed never comes, healed or not."""
        self._swallows = True

    def heal(self) -> None:
        """Hand on as if nothing had been."""

        def end() -> None:
            if self._flapping is not None:
                self._flapping.cancel()
                self._flapping = None
            self._flowing.set()

        self._delay_s, self._piece_bytes = 0.0, 0
        self._resets = self._swallows = False
        self._do(end)

    def close(self) -> None:
        """End all connections, and the thread."""
        self._do(self._closing.set)
        self._thread.join()

    def _do(self, action: Callable[[], None]) -> None:
        """Do something on the proxy's own loop."""
        self._loop.call_soon_threadsafe(action)

    async def _serve(self, ready: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._flowing, self._closing = asyncio.Event(), asyncio.Event()
        self._flowing.set()
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        await self._closing.wait()
        server.close()
        if self._flapping is not None:
            self._flapping.cancel()
        tasks = list(self._links)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task, link = asyncio.current_task(), _Link()
        assert task is not None
        link.writers.append(writer)
        self._links[task] = link
        try:
            if self._resets:
                link.reset()
                return
            with suppress(OSError, asyncio.CancelledError):
                await self._relay(link, reader, writer)
        finally:
            del self._links[task]
            for each in link.writers:
                each.close()
            for each in link.writers:
                with suppress(OSError, asyncio.CancelledError):
                    await each.wait_closed()

    async def _relay(self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        redis_reader, redis_writer = await asyncio.open_connection("127.0.0.1", self._target)
        link.writers.append(redis_writer)
        pumps = [
            asyncio.ensure_future(self._pump(link, reader, redis_writer)),
            asyncio.ensure_future(self._pump(link, redis_reader, writer, is_reply=True)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(
        self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_reply: bool = False
    ) -> None:
        """Hand on one direction's bytes until it ends."""
        while data := await reader.read(1 << 16):
            await self._flowing.wait()
            link.is_dead |= self._swallows
            if link.is_dead:
                continue
            if not is_reply:
                writer.write(data)
                continue
            await asyncio.sleep(self._delay_s)
            size = self._piece_bytes or len(data)
            for begin in range(0, len(data), size):
                writer.write(data[begin : begin + size])
                await asyncio.sleep(0)
