"""A server that does to each connection what a test says: the faults that no real server shows on demand."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

PATIENCE_S = 10.0

Act = Callable[["Visit"], None]


class Visit:
    """One connection. number: the how-manieth it is, from 0. ended: set when the test is over."""

    def __init__(self, connection: socket.socket, number: int, ended: threading.Event) -> None:
        self.number = number
        self.ended = ended
        self._socket = connection
        self._file = connection.makefile("rb")

    def read(self) -> tuple[bytes, bytes]:
        """Return one request's head and body; empty ones at the end."""
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = self._file.readline()
            if not line:
                return b"", b""
            head += line
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
        return head, self._file.read(length)

    def send(self, data: bytes) -> None:
        """Send as it is."""
        with contextlib.suppress(OSError):
            self._socket.sendall(data)

    def answer(self, body: bytes = b'{"n":1}', status: str = "200 OK", headers: str = "") -> None:
        """Send an answer."""
        self.send(f"HTTP/1.1 {status}\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body)

    def answer_all(self, body: bytes = b'{"n":1}') -> None:
        """Answer whatever comes."""
        while self.read()[0]:
            self.answer(body)

    def reset(self) -> None:
        """End the connection with a reset."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        """End the connection."""
        self._file.close()
        self._socket.close()

    def wake(self) -> None:
        """Let its thread come back from a read."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)


class ScriptServer:
    """Acts in a thread for each connection. path: of a Unix socket instead of a port."""

    def __init__(self, act: Act, path: Path | None = None) -> None:
        self._act = act
        if path is None:
            self._listener = socket.create_server(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        else:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(str(path))
            self._listener.listen()
            self.url = f"unix:{path}"
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._accept)]
        self.visits: list[Visit] = []
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            if self._ended.is_set():
                connection.close()
                return
            visit = Visit(connection, len(self.visits), self._ended)
            self.visits.append(visit)
            thread = threading.Thread(target=self._run, args=(visit,))
            self._threads.append(thread)
            thread.start()

    def _run(self, visit: Visit) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._act(visit)
        with contextlib.suppress(OSError):
            visit.close()

    def close(self) -> None:
        """End, and see that every thread has ended."""
        self._ended.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join(PATIENCE_S)
        self._listener.close()
        for visit in self.visits:
            visit.wake()
        for thread in self._threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()


@contextlib.contextmanager
def scripted(act: Act, path: Path | None = None) -> Iterator[ScriptServer]:
    """Yield a server that acts so."""
    server = ScriptServer(act, path)
    try:
        yield server
    finally:
        server.close()


def refused_url() -> str:
    """Return an address where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"
