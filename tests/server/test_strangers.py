"""Who shows wrong keys is read now and then, however many they are, and those beside them are read at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from http_server import RunningServer, ample, payment_of, post, wait_for

from tailrace.pipeline import Pipeline
from tailrace.server.http.strangers import READS_MAX, SLICE_S, Strangers
from tailrace.server.key_file import changing, make_key
from tailrace.server.keys import Keys
from tailrace.server.proxies import Proxies

CONNECTIONS = 40
REQUESTS = 30


def wrong(number: int) -> bytes:
    """Return a request with a wrong key."""
    return post("{}", f"X-API-Key: tr_{number:012x}_{'A' * 43}")


@pytest.fixture
def door(pipeline_of: Callable[[str], Pipeline], tmp_path: Path) -> Iterator[tuple[RunningServer, str]]:
    """Return a server with keys, and one of them."""
    secret, key = make_key("caller", ["pipelines/log"])
    with changing(tmp_path / "keys.json", create=True) as known:
        known.append(key)
    with RunningServer([ample(pipeline_of("log"))]) as server:
        keys = Keys(tmp_path / "keys.json", server.http.shared.count_failure)
        server.on_loop(setattr, server.http.shared, "keys", keys)
        yield server, secret


def test_strangers_are_answered_now_and_then(door: tuple[RunningServer, str]) -> None:
    """All are told 401 in the end, no faster than they may be read; a caller with a key is not held up by them."""
    server, secret = door
    sound = post(payment_of(), f"X-API-Key: {secret}")
    with ExitStack() as stack:
        strangers = [stack.enter_context(server.connect()) for _ in range(CONNECTIONS)]
        for place, client in enumerate(strangers):
            assert client.ask(wrong(place)).status == 401
        began_s = time.monotonic()
        for client in strangers:
            client.send(b"".join(map(wrong, range(REQUESTS))))
        neighbour = stack.enter_context(server.connect())
        answered = 0
        while time.monotonic() < began_s + 0.1:
            assert neighbour.ask(sound).status == 200
            answered += 1
        assert answered > 10
        for client in strangers:
            assert {client.read().status for _ in range(REQUESTS)} == {401}
        took_s = time.monotonic() - began_s
    reads = CONNECTIONS * REQUESTS * len(wrong(0)) / 512
    assert took_s > 0.8 * reads / READS_MAX * SLICE_S


def test_key_ends_the_waiting(door: tuple[RunningServer, str]) -> None:
    """Who finds the right key after a wrong one is read as any caller from then on."""
    server, secret = door
    with server.connect() as client:
        assert client.ask(wrong(1)).status == 401
        assert client.ask(post(payment_of(), f"X-API-Key: {secret}")).status == 200
        client.send(post(payment_of(), f"X-API-Key: {secret}") * 50)
        assert {client.read().status for _ in range(50)} == {200}
        assert not server.http.shared.strangers._waiting


@pytest.mark.parametrize("knows", ["a key", "a proxy"])
def test_connection_that_callers_share_does_not_wait(door: tuple[RunningServer, str], knows: str) -> None:
    """Of a proxy that is listed, or one that has shown a right key: a wrong one among them holds up no other."""
    server, secret = door
    sound = post(payment_of(), f"X-API-Key: {secret}")
    if knows == "a proxy":
        server.on_loop(server.http.shared.trust, Proxies(["127.0.0.1"], "X-Forwarded-For"))
    with server.connect() as shared:
        if knows == "a key":
            assert shared.ask(sound).status == 200
        for place in range(10):
            shared.send(wrong(place) * 20 + sound)
            assert [shared.read().status for _ in range(21)] == [401] * 20 + [200]
            assert not server.http.shared.strangers._waiting
        assert not server.http.shared.strangers._is_due


def test_stranger_who_leaves_leaves_nothing(door: tuple[RunningServer, str]) -> None:
    """A place in the line of one that is gone is passed over, and what was kept for it is counted no more."""
    server, _ = door
    with ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(CONNECTIONS)]
        for place, client in enumerate(clients):
            client.send(wrong(place) * REQUESTS)
        for client in clients:
            assert client.read().status == 401
    wait_for(lambda: not server.http.connections and not server.http.shared.strangers._waiting, "all are forgotten")
    assert server.load.bytes == 0


def test_line_goes_on_in_its_order(door: tuple[RunningServer, str]) -> None:
    """First come, first read; a few in each slice."""
    server, _ = door
    went: list[int] = []
    strangers = Strangers()

    def come() -> list[bool]:
        return [strangers.let(lambda place=place: went.append(place)) for place in range(20)]  # type: ignore[misc]

    let = server.on_loop(come)
    assert let == [True] * READS_MAX + [False] * (20 - READS_MAX)
    wait_for(lambda: len(went) == 20 - READS_MAX, "all have gone on")
    assert went == sorted(went)
    wait_for(lambda: not strangers._is_due, "nothing is due where nobody waits")
