"""A server that keeps what its clients write: each request as the segments in which it was written, byte for byte."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Final

from machine import BenchError

ANSWER: Final = b'{"decision":"allow","score":0.5}'
RECEIVE_BYTES: Final = 1 << 16
QUIET_S: Final = 0.002
"""How long it waits before it answers, so that nothing that still belongs to the request can be taken for the next."""

Request = list[bytes]
"""The segments of one request, in order."""


class Recorder:
    """Listens on a free port of 127.0.0.1, answers every POST alike, and keeps it.

    It never sleeps while a request is on its way: it asks each socket again and again, on a core of its own, so that
    two writes of a client are two readings even where only microseconds lie between them. pages: what a GET is
    answered, by path; a GET is not kept. connections: the requests of each connection, in the order of their coming.
    """

    def __init__(self, pages: Mapping[str, bytes] = {}) -> None:
        self._stack = ExitStack()
        self._listener = self._stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self._listener.setblocking(False)
        self._pages = pages
        self._open: dict[socket.socket, Request] = {}
        self.authority = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.connections: dict[socket.socket, list[Request]] = {}

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def record(self, is_done: Callable[[], bool], seconds_max: float) -> list[list[Request]]:
        """Serve until it is done, asked now and then; return what each connection sent.

        Raises BenchError when that takes longer than it may.
        """
        ends_s = time.monotonic() + seconds_max
        while not is_done():
            if time.monotonic() > ends_s:
                raise BenchError(f"the client was not done within {seconds_max:.0f} s")
            for _ in range(2_000):
                self._accept()
                for link in list(self._open):
                    self._read(link)
        return list(self.connections.values())

    def _accept(self) -> None:
        try:
            link = self._stack.enter_context(self._listener.accept()[0])
        except BlockingIOError:
            return
        link.setblocking(False)
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._open[link] = []
        self.connections[link] = []

    def _read(self, link: socket.socket) -> None:
        try:
            piece = link.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return
        except ConnectionError:
            piece = b""
        if not piece:
            del self._open[link]
            return
        self._open[link].append(piece)
        received = b"".join(self._open[link])
        if len(received) == request_bytes(received):
            time.sleep(QUIET_S)
            self._answer(link, received)

    def _answer(self, link: socket.socket, received: bytes) -> None:
        method, path = received.split(b" ", 2)[:2]
        status, body = b"200 OK", ANSWER
        if method == b"POST":
            self.connections[link].append(self._open[link])
        else:
            page = self._pages.get(path.decode("latin-1"))
            status, body = (b"200 OK", page) if page is not None else (b"404 Not Found", b"")
        kind = b"application/json" if method == b"POST" else b"text/html; charset=utf-8"
        self._open[link] = []
        link.sendall(
            b"HTTP/1.1 %b\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n%b" % (status, kind, len(body), body)
        )


def request_bytes(received: bytes) -> int:
    """Return how long a request is, by its Content-Length; -1 while its head is not whole. No body without one."""
    end = received.find(b"\r\n\r\n")
    if end < 0:
        return -1
    fields = dict(line.lower().split(b":", 1) for line in received[:end].split(b"\r\n")[1:])
    if b"transfer-encoding" in fields:
        raise BenchError(f"a client sends its body in chunks, which cannot be replayed: {received!r}")
    return end + 4 + int(fields.get(b"content-length", b"0"))
