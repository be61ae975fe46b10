"""Worker slots: the listening sockets that outlive the workers that accept on them.

Each slot has its own socket on the same port (SO_REUSEPORT), bound and owned by the supervisor, which gives a copy to
the worker that is to accept on it. The kernel spreads connections over the sockets that listen. A socket listens from
the moment its first worker is ready; when that worker dies, its pending connections wait for a sibling or for its
successor, and are not lost.

The supervisor holds every socket, so that none is closed by a worker closing it. To stop, a slot first turns new
handshakes away, its worker accepts what is pending, and then the socket is shut for all who hold it.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any, Final

from tailrace.errors import SetupError
from tailrace.server.claim import claim_address

BACKLOG: Final = 4_096
"""Connections that may wait to be accepted on one slot (the kernel's somaxconn also bounds them)."""
_SO_ATTACH_FILTER: Final = 26
_NO_SYN: Final = ((0x30, 0, 0, 13), (0x45, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFF_FFFF))
"""In the kernel's filter language (socket(7)): load the TCP flags; if SYN is among them, drop; else take the packet."""
_NO_SYN_CODE: Final = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in _NO_SYN))


@dataclass(eq=False, frozen=True, slots=True)
class Slot:
    """A place for workers: a socket. It does not know who accepts on it; for a while that may be two processes.

    claim: keeps other servers off the address; all slots share it, and the first that is shut gives it up. None where
    the system lets none be made.
    """

    index: int
    listener: socket.socket
    claim: socket.socket | None

    def shut(self) -> None:
        """Refuse connections from now on, whoever else holds the socket."""
        shut_listener(self.listener)
        self.close()

    def close(self) -> None:
        """Let go of the socket."""
        self.listener.close()
        if self.claim is not None:
            self.claim.close()


def open_slots(host: str, port: int, count: int, *, warn: Callable[[str], None] = lambda text: None) -> list[Slot]:
    """Bind `count` sockets to one address; port 0 takes a free one. Raises SetupError where it cannot be had.

    warn: hears why a second server on the port may not be noticed.

    A second server would silently take half of the first one's traffic. The claim refuses it, whether or not the first
    listens yet; a first bind without SO_REUSEPORT refuses the port of any other program that listens.
    """
    family, address = resolve(host, port)
    with ExitStack() as opened:
        try:
            if port:
                claim = _hold(opened, claim_address(address[0], address[1], warn))
                _bind(family, address, shared=False).close()
            listeners = [opened.enter_context(_bind(family, address, shared=True))]
            address = listeners[0].getsockname()
            if not port:
                claim = _hold(opened, claim_address(address[0], address[1], warn))
            listeners += [opened.enter_context(_bind(family, address, shared=True)) for _ in range(count - 1)]
        except OSError as error:
            what = f"cannot listen: {error.strerror or error}"
            raise SetupError(what, where=f"{host}:{port}", next="choose another port or host") from error
        opened.pop_all()  # all is open, and stays so
    return [Slot(index, listener, claim) for index, listener in enumerate(listeners)]


def _hold(opened: ExitStack, claim: socket.socket | None) -> socket.socket | None:
    """Have a claim, where there is one, closed with the rest; return it."""
    return claim if claim is None else opened.enter_context(claim)


def turn_away(listener: socket.socket) -> None:
    """Let no new handshake begin, so that what is pending can be accepted to the last one and nothing is reset.

    A packet that asks for one is dropped; the client's next try, a second later, finds the socket shut. Where the
    system takes no filter, one that comes between the last accept and `shut_listener` is reset.
    """
    with suppress(OSError):
        listener.setsockopt(
            socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(_NO_SYN), ctypes.addressof(_NO_SYN_CODE))
        )


def shut_listener(listener: socket.socket) -> None:
    """End listening on a socket for every process that holds it: connections are refused at once."""
    with suppress(OSError):  # it never listened, or is shut
        listener.shutdown(socket.SHUT_RD)


def url_of(address: tuple[str, int], *, is_secret: bool = False) -> str:
    """Return where a socket that is bound to the address is reached. is_secret: by TLS alone."""
    host, port = address
    scheme = "https" if is_secret else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def resolve(host: str, port: int) -> tuple[int, Any]:
    """Return the address family and the address to bind. Raises SetupError for a host that there is not."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise SetupError(f"no such host: {error}", where=host, next="name an address of this machine") from error
    return found[0][0], found[0][4]


def _bind(family: int, address: Any, *, shared: bool) -> socket.socket:
    """Return a bound socket that does not listen yet."""
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener
