"""Cuts the link between a worker and the ingester of a running server, from outside, while both go on living."""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

PIDFD_GETFD = 438
"""The number of the system call, on every architecture."""


def cut_link(worker: int, ingester: int) -> None:
    """Shut the socket that two processes, by their pids, share with each other; skip where this may not be done.

    The kernel numbers the two ends of a socket pair one behind the other.
    """
    ends = dict(_sockets(ingester))
    for number, descriptor in _sockets(worker):
        if {number - 1, number + 1} & ends.keys():
            with _copied(worker, descriptor) as link:
                link.shutdown(socket.SHUT_RDWR)
            return
    pytest.fail("the two share no socket")


def _sockets(pid: int) -> Iterator[tuple[int, int]]:
    """Yield the number of each socket that a process has, and its descriptor."""
    for path in Path(f"/proc/{pid}/fd").iterdir():
        kind, _, number = os.readlink(path).partition(":")
        if kind == "socket":
            yield int(number.strip("[]")), int(path.name)


def _copied(pid: int, descriptor: int) -> socket.socket:
    """Return a copy of a socket of another process."""
    libc = ctypes.CDLL(None, use_errno=True)
    process = os.pidfd_open(pid)
    try:
        copy = libc.syscall(PIDFD_GETFD, process, descriptor, 0)
    finally:
        os.close(process)
    if copy < 0:
        pytest.skip(f"no descriptor of another process may be copied: {os.strerror(ctypes.get_errno())}")
    return socket.socket(fileno=copy)
