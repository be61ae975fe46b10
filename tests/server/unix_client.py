"""Clients of a socket at a path: one that asks once, and one that asks as long as it is let."""

from __future__ import annotations

import socket
import threading
from pathlib import Path


def connect_unix(path: Path) -> socket.socket:
    """Return a connection to the socket at a path."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(20)
    try:
        sock.connect(str(path))
    except OSError:
        sock.close()
        raise
    return sock


def ask_unix(path: Path) -> int:
    """Return the pid of the stand-in worker that answers a new connection."""
    with connect_unix(path) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        answer = b""
        while data := sock.recv(65_536):
            answer += data
    return int(answer.rpartition(b"\r\n\r\n")[2])


class Asker:
    """Asks on a connection after the other, from a thread. pids: who answered; failures: what came instead."""

    def __init__(self, path: Path) -> None:
        self.pids: list[int] = []
        self.failures: list[Exception] = []
        self._path = path
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="asker")

    def __enter__(self) -> Asker:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                self.pids.append(ask_unix(self._path))
            except (OSError, ValueError) as error:
                self.failures.append(error)
