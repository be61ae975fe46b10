"""A claim on an address: it keeps a second server off a port on which the first one does not listen yet.

The kernel refuses a port on which another program listens. It does not refuse one that another server of the same user
has bound with SO_REUSEPORT and listens on later, once its workers have loaded. So a server holds a name of its port
from before it binds: an abstract Unix socket (unix(7)). The kernel gives a name to one holder, takes it back when the
holder dies, and keeps names apart by network namespace, as it does ports.

Where the system forbids such sockets, or does not list their names, the server goes on with less of a claim, or none.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Final

NAMES: Final = Path("/proc/self/net/unix")
"""Where the kernel lists the names that are held; an abstract one begins with @, and is the last field of its line."""


def claim_address(host: str, port: int, warn: Callable[[str], None]) -> socket.socket | None:
    """Return what holds the claim until it is closed; None where the system lets none be made. host: an IP address.

    warn: hears why there is no claim, or why one that overlaps would not be seen.
    Raises OSError, EADDRINUSE, where another server has claimed the address or one that overlaps.
    """
    try:
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    except OSError as error:
        warn(f"Unix sockets cannot be made: {error.strerror}")
        return None
    try:
        claim.bind(f"\0{_name(host, port)}")
    except OSError as error:
        claim.close()
        if error.errno == errno.EADDRINUSE:
            raise
        warn(f"the name cannot be taken: {error.strerror}")
        return None
    try:
        taken = _overlapping(host, port)
    except OSError as error:
        warn(f"{NAMES} cannot be read: {error.strerror}")
        return claim
    if taken:
        claim.close()
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    return claim


def _overlapping(host: str, port: int) -> bool:
    """Say whether another address of the port is claimed that takes the same connections: all, or all of these.

    Raises OSError where the kernel's list cannot be read.
    """
    prefix = f"@{_name('', port)}"
    claimed = {line.rpartition(" ")[2] for line in NAMES.read_text(errors="replace").splitlines()}
    others = {name.removeprefix(prefix) for name in claimed if name.startswith(prefix)} - {host}
    return bool(others) and (_is_any(host) or any(_is_any(other) for other in others))


def _name(host: str, port: int) -> str:
    """Return what the claim on an address is called."""
    return f"tailrace/{port}/{host}"


def _is_any(host: str) -> bool:
    """Say whether a host stands for every address of the machine."""
    try:
        return ip_address(host.partition("%")[0]).is_unspecified
    except ValueError:  # any program may hold a name that begins as ours do
        return False
