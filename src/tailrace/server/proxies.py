"""Who calls, where proxies stand before the server: the addresses that they tell, believed as far as they are ours.

Each proxy adds to a header the address that it was called from:

    client 203.0.113.9 ─▶ balancer 10.0.0.2 ─▶ proxy 10.0.0.3 ─▶ server
                          X-Forwarded-For: 203.0.113.9   …, 10.0.0.2

Read from its end: what 10.0.0.3 says of its caller is believed if 10.0.0.3, which the connection comes from, is a proxy
of ours; what 10.0.0.2 says if that is one too. The first address that is none of ours is who calls. What is further
left whoever calls may have written.
"""

from __future__ import annotations

import re
from asyncio import BaseTransport
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from tailrace.errors import SetupError

TOLD_BYTES_MAX: Final = 1_024
"""Of the header, from its end: proxies behind one another have some thirty bytes each."""
UNIX: Final = "unix"
"""In the place of an address: whoever may connect to the Unix socket."""
HEADERS: Final = ("X-Forwarded-For", "Forwarded")
_FOR: Final = re.compile(r"""(?:^|;)\s*for\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;,"]+))\s*(?:;|$)""", re.IGNORECASE)
_LAST: Final = re.compile(r"""(?:^|,)((?:[^,"]|"(?:[^"\\]|\\.)*")*)$""")
"""The last element of Forwarded. What a caller has left open to its left, a quote say, cannot swallow it."""

Address = IPv4Address | IPv6Address


class Proxies:
    """The proxies that are trusted, and the header in which they tell whom they were called by; in lower case.

    Raises SetupError for what is no network, or a header that is not known.
    """

    def __init__(self, networks: Sequence[str], header: str) -> None:
        if header.lower() not in map(str.lower, HEADERS):
            next_step = f"give {' or '.join(HEADERS)}"
            raise SetupError(f"{header!r} tells of no proxy", where="proxy_header", next=next_step)
        self.header = header.lower().encode()
        self._is_unix_ours = UNIX in networks
        self._networks = [_network(text) for text in networks if text != UNIX]
        self._reads_for = header.lower() == "forwarded"

    def client(self, peer: str, told: bytes) -> str:
        """Return the address of who calls. peer: what the connection comes from, empty for the Unix socket.

        told: the header's value. An address is written as Python writes it; that of a proxy that says nothing, or
        nothing that is an address, is its own.
        """
        is_ours, found = self._knows(peer)
        if not is_ours:
            return found
        text = told[-TOLD_BYTES_MAX:].decode("latin-1")
        for hop in map(_for, _elements(text)) if self._reads_for else map(str.strip, reversed(text.split(","))):
            address = _address(hop)
            if address is None:
                break
            found = str(address)
            if not self._holds(address):
                break
        return found

    def trusts(self, peer: str) -> bool:
        """Return whether what a connection comes from is a proxy of ours."""
        return self._knows(peer)[0]

    def _knows(self, peer: str) -> tuple[bool, str]:
        """Return whether what a connection comes from is a proxy of ours, and its address."""
        if not peer:
            return self._is_unix_ours, UNIX
        address = _address(peer)
        return (False, peer) if address is None else (self._holds(address), str(address))

    def _holds(self, address: Address) -> bool:
        return any(address in network for network in self._networks)


def peer_of(transport: BaseTransport) -> str:
    """Return the address that a connection comes from; empty for the socket at a path."""
    name = transport.get_extra_info("peername")
    return str(name[0]) if isinstance(name, tuple) else ""


def _network(text: str) -> IPv4Network | IPv6Network:
    """Return a network, or a single address as one."""
    try:
        return ip_network(text)
    except ValueError as error:
        next_step = "give an address, a network such as 10.0.0.0/8, or unix"
        raise SetupError(f"no proxy can be at {text!r}: {error}", where="trusted_proxy", next=next_step) from None


def _elements(text: str) -> Iterator[str]:
    """Give the elements of a Forwarded header (RFC 7239), from the last on."""
    while (found := _LAST.search(text)) is not None:
        yield found[1]
        text = text[: found.start()]
        if not found.start():
            return


def _for(element: str) -> str:
    """Return who an element of Forwarded is from, empty where it does not say."""
    found = _FOR.search(element.strip())
    if found is None:
        return ""
    quoted, bare = found.groups()
    return bare if quoted is None else re.sub(r"\\(.)", r"\1", quoted)


def _address(text: str) -> Address | None:
    """Return the address that a text is, with a port or without; None for another. IPv4 within IPv6 is IPv4."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
