"""Listening sockets: one port, one socket a slot, nobody else's traffic."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tailrace.errors import SetupError
from tailrace.server import claim
from tailrace.server.slots import Slot, open_slots


@contextmanager
def opened(host: str, port: int, count: int) -> Iterator[list[Slot]]:
    """Give open slots, and close them."""
    slots = open_slots(host, port, count)
    try:
        yield slots
    finally:
        for slot in slots:
            slot.close()


def test_slots_share_one_free_port() -> None:
    """Port 0 takes a free one for all slots; none listens before a worker does."""
    with opened("127.0.0.1", 0, 3) as slots:
        ports = {slot.listener.getsockname()[1] for slot in slots}
        assert len(ports) == 1
        with socket.socket() as client:
            assert client.connect_ex(("127.0.0.1", ports.pop())) != 0


def test_slots_refuse_a_port_in_use() -> None:
    """A port where another serves is refused, even one that shares its port with others."""
    with opened("127.0.0.1", 0, 1) as [slot]:
        slot.listener.listen()
        port = slot.listener.getsockname()[1]
        with pytest.raises(SetupError, match="in use") as caught:
            open_slots("127.0.0.1", port, 1)
        assert caught.value.where == f"127.0.0.1:{port}"


def test_slots_of_an_unknown_host_are_refused() -> None:
    """A host that is no address of this machine is an error that names it."""
    with pytest.raises(SetupError, match=r"192\.0\.2\.1"):
        open_slots("192.0.2.1", 0, 1)


@pytest.mark.parametrize(
    ("first", "second", "is_taken"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "localhost", True),
        ("127.0.0.1", "0.0.0.0", True),
        ("0.0.0.0", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.2", False),
    ],
)
def test_slots_that_do_not_listen_yet_hold_their_address(first: str, second: str, is_taken: bool) -> None:
    """A port is taken from the moment it is bound, on its address and on all that take the same connections."""
    with opened(first, 0, 2) as [slot, _]:
        port = slot.listener.getsockname()[1]
        if is_taken:
            with pytest.raises(SetupError, match="in use"):
                open_slots(second, port, 1)
        else:
            with opened(second, port, 1):
                pass
        slot.shut()
        with opened(first, port, 1):  # one that is shut is free for a successor, while its server still drains
            pass


def test_name_that_is_no_address_claims_nothing() -> None:
    """Any program of the machine may hold a name that begins as a claim does."""
    with opened("127.0.0.1", 0, 1) as [slot]:
        port = slot.listener.getsockname()[1]
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.bind(f"\0tailrace/{port}/nonsense")
        with opened("127.0.0.1", port, 1):
            pass


class NetworkSocket(socket.socket):
    """A socket where the system forbids Unix sockets, as systemd's RestrictAddressFamilies=AF_INET AF_INET6 does."""

    def __init__(self, family: int = -1, *rest: Any, **options: Any) -> None:
        if family == socket.AF_UNIX:
            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
        super().__init__(family, *rest, **options)


def test_slots_open_where_no_claim_can_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Unix sockets a second server is not noticed, and the caller hears so; the port is had all the same."""
    monkeypatch.setattr(socket, "socket", NetworkSocket)
    told: list[str] = []
    (slot,) = open_slots("127.0.0.1", 0, 1, warn=told.append)
    slot.shut()
    assert slot.claim is None
    assert told == ["Unix sockets cannot be made: Address family not supported by protocol"]


def test_slots_open_where_claims_are_not_listed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without the kernel's list the claim still refuses a second server on the very address."""
    monkeypatch.setattr(claim, "NAMES", tmp_path / "unix")
    told: list[str] = []
    (slot,) = open_slots("127.0.0.1", 0, 1, warn=told.append)
    try:
        assert told == [f"{tmp_path / 'unix'} cannot be read: No such file or directory"]
        with pytest.raises(SetupError, match="in use"):
            open_slots("127.0.0.1", slot.listener.getsockname()[1], 1)
    finally:
        slot.close()
