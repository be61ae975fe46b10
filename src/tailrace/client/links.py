"""The connections of one event loop to one server: bounded, kept open, the one used last first."""

from __future__ import annotations

import asyncio
import time

from tailrace.client.answer import Answer
from tailrace.client.endpoints import Endpoint, crowded, late
from tailrace.client.link import Link
from tailrace.client.wire import unreachable
from tailrace.deadline import NS_PER_S


class Links:
    """Connections to one server. connections_max: in use at once; who comes then waits."""

    def __init__(self, endpoint: Endpoint, *, connections_max: int, answer_bytes_max: int) -> None:
        self._endpoint = endpoint
        self._answer_bytes_max = answer_bytes_max
        self._places = asyncio.Semaphore(connections_max)
        self._idle: list[Link] = []
        self._is_closed = False

    async def take(self, ends_ns: int) -> Link:
        """Return a connection that is the caller's until it is given back. Raises ExchangeError."""
        if self._places.locked():
            try:
                async with asyncio.timeout(_left_s(ends_ns)):
                    await self._places.acquire()
            except TimeoutError:
                raise crowded(self._endpoint) from None
        else:
            await self._places.acquire()
        try:
            while self._idle:
                link = self._idle.pop()
                if link.is_usable:
                    return link
                link.close()
            return await self._dial(ends_ns)
        except BaseException:
            self._places.release()
            raise

    async def ask(self, link: Link, request: bytes, ends_ns: int) -> Answer:
        """Return the answer to a request. Raises ExchangeError: at the end of its time at the latest."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[Answer] = loop.create_future()
        timer = loop.call_later(_left_s(ends_ns), self._expire, waiter)
        link.ask(request, waiter)
        try:
            return await waiter
        finally:
            timer.cancel()
            del waiter  # which has its error, whose traceback has this frame

    def give_back(self, link: Link, *, is_read: bool) -> None:
        """Take a connection back. is_read: its answer was read to its end; else it is closed."""
        if is_read and not link.is_spoilt and not self._is_closed:
            self._idle.append(link)
        else:
            link.close()
        self._places.release()

    def close(self) -> None:
        """Close what is idle, and later what is given back."""
        self._is_closed = True
        while self._idle:
            self._idle.pop().close()

    async def _dial(self, ends_ns: int) -> Link:
        loop, address = asyncio.get_running_loop(), self._endpoint.address
        try:
            async with asyncio.timeout(_left_s(ends_ns)):
                if address.path:
                    _, link = await loop.create_unix_connection(self._make, address.path)
                else:
                    tls, name = self._endpoint.tls, address.host if address.is_secret else None
                    _, link = await loop.create_connection(
                        self._make, address.host, address.port, ssl=tls, server_hostname=name
                    )
        except TimeoutError:
            raise late(self._endpoint) from None
        except OSError as error:
            raise unreachable(self._endpoint, error) from error
        return link

    def _make(self) -> Link:
        return Link(self._endpoint, self._answer_bytes_max)

    def _expire(self, waiter: asyncio.Future[Answer]) -> None:
        if not waiter.done():
            waiter.set_exception(late(self._endpoint))


def _left_s(ends_ns: int) -> float:
    return max((ends_ns - time.monotonic_ns()) / NS_PER_S, 0.0)
