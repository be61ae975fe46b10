"""Servers that stall, reset, lie and talk too much: a call ends in its budget, and its error says what was wrong."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from client.script_server import PATIENCE_S, Visit, refused_url, scripted
from tailrace.client import AsyncClient, Options
from tailrace.errors import (
    ClientError,
    DeadlineExceededError,
    InvalidRequestError,
    OutOfTimeError,
    ServerError,
    SetupError,
    UnavailableError,
)

LATE_S_MAX = 1.0
"""How late an end may be on a busy machine; the stalls are of 10 s."""
OK = b"HTTP/1.1 200 OK\r\n"


def stall(visit: Visit) -> None:
    """Read and say nothing."""
    visit.read()
    visit.ended.wait(PATIENCE_S)


def drip(visit: Visit) -> None:
    """Send the answer a byte at a time, slowly."""
    visit.read()
    for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n" + b'{"n":1}':
        visit.send(bytes([byte]))
        if visit.ended.wait(0.02):
            return


def deaf(visit: Visit) -> None:
    """Read nothing at all."""
    visit.ended.wait(PATIENCE_S)


@pytest.mark.parametrize("act", [stall, drip, deaf])
def test_call_ends_with_its_budget(connect: Callable[..., Any], act: Callable[[Visit], None]) -> None:
    """No server holds a call for longer than its budget, however slowly it reads or answers; it is not repeated."""
    with scripted(act) as server:
        client, began = connect(server.url, repeatable=True), time.monotonic()
        with pytest.raises(DeadlineExceededError) as caught:
            client.predict("log", {"text": "x" * 8_000_000} if act is deaf else {}, budget="80ms")
        assert 0.07 < time.monotonic() - began < LATE_S_MAX
        assert caught.value.where == server.url
        assert len(server.visits) == 1


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "not HTTP"),
        (b"\x00\xff" * 50, "not HTTP"),
        (OK + b'\r\n{"n":1}', "no length"),
        (OK + b"Content-Length: 7\r\nContent-Length: 8\r\n\r\n", "not HTTP"),
        (OK + b"Content-Length: 7\r\nTransfer-Encoding: chunked\r\n\r\n", "not HTTP"),
        (OK + b"Content-Length: -1\r\n\r\n", "not HTTP"),
        (OK + b"Content-Length: 2000\r\n\r\n", "may have 1000"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"200\r\n" + b"x" * 512 + b"\r\n200\r\n" + b"x" * 512, "longer"),
        (OK + b"X: " + b"y" * 200_000, "head is longer|not HTTP"),
        (OK + b"Content-Encoding: gzip\r\nContent-Length: 7\r\n\r\n", "compressed"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 5_000, "head is longer"),
        (b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", "not HTTP"),
        (OK + b'Content-Length: 7\r\n\r\n{"n":1', "lost"),
        (OK + b'Content-Length: 7\r\n\r\n{"n": 1', "not as expected"),
        (b"", "lost"),
    ],
)  # fmt: skip
def test_answer_that_is_none(connect: Callable[..., Any], answer: bytes, what: str) -> None:
    """What is no whole answer in bounds is an error, and its connection is let go of."""

    def act(visit: Visit) -> None:
        visit.read()
        visit.send(answer)

    with scripted(act) as server, pytest.raises(ServerError, match=what) as caught:
        connect(server.url, answer_bytes_max=1_000).predict("log", {}, budget="5s")
    assert caught.value.where == server.url


def test_connection_reset_is_lost(connect: Callable[..., Any]) -> None:
    """A call whose connection is reset after it was sent may have been computed: it is not sent again."""

    def act(visit: Visit) -> None:
        visit.read()
        visit.reset()

    with scripted(act) as server:
        with pytest.raises(UnavailableError, match="lost"):
            connect(server.url).predict("log", {})
        assert len(server.visits) == 1


def test_call_that_may_be_repeated_is(connect: Callable[..., Any]) -> None:
    """Told that calls may be computed twice, the client sends one again whose connection was lost."""

    def act(visit: Visit) -> None:
        visit.read()
        if visit.number == 0:
            visit.reset()
        else:
            visit.answer()

    with scripted(act) as server:
        assert connect(server.url, repeatable=True).predict("log", {}) == {"n": 1}


def test_answer_nobody_asked_for_is_no_answer(connect: Callable[..., Any]) -> None:
    """Bytes after an answer end the connection: the next call gets its own answer, not the one that lay there."""

    def act(visit: Visit) -> None:
        visit.read()
        if visit.number == 0:
            answer = b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n"
            visit.send(answer + b'{"n":1}' + answer + b'{"n":9}')
            visit.ended.wait(PATIENCE_S)
        else:
            visit.answer(b'{"n":2}')

    with scripted(act) as server:
        client = connect(server.url)
        assert [client.predict("log", {})["n"] for _ in range(2)] == [1, 2]
        assert len(server.visits) == 2


def test_answer_that_comes_late_is_nobodys(connect: Callable[..., Any]) -> None:
    """The answer to a call that was given up does not become that of the next one."""

    def act(visit: Visit) -> None:
        visit.read()
        if visit.number == 0 and visit.read()[0]:  # the next call, on the same connection
            visit.answer(b'{"n":1}')
        visit.answer(b'{"n":2}')

    with scripted(act) as server:
        client = connect(server.url)
        with pytest.raises(DeadlineExceededError):
            client.predict("log", {}, budget="30ms")
        assert client.predict("log", {}) == {"n": 2}


def test_call_that_is_cancelled_lets_its_connection_go() -> None:
    """A task that is cancelled leaves nothing behind: the one connection that there may be is free again."""
    asked = threading.Event()

    def act(visit: Visit) -> None:
        visit.read()
        asked.set()
        if visit.number == 0 and visit.read()[0]:  # the next call, on the same connection
            visit.answer(b'{"n":1}')
        visit.answer(b'{"n":2}')

    async def calls(url: str) -> Any:
        async with AsyncClient(url, Options(connections_max=1, budget="10s")) as client:
            task = asyncio.create_task(client.predict("log", {}))
            await asyncio.to_thread(asked.wait, PATIENCE_S)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            return await client.predict("log", {})

    with scripted(act) as server:
        assert asyncio.run(calls(server.url)) == {"n": 2}


def test_connection_closed_while_idle_is_not_used(connect: Callable[..., Any]) -> None:
    """A server that has closed an idle connection costs no call, even one that may not be repeated."""
    go, closed = threading.Event(), threading.Event()

    def act(visit: Visit) -> None:
        visit.read()
        visit.answer()
        go.wait(PATIENCE_S)
        go.clear()
        visit.close()
        closed.set()

    with scripted(act) as server:
        client = connect(server.url)
        for _ in range(3):
            assert client.predict("log", {}) == {"n": 1}
            go.set()
            assert closed.wait(PATIENCE_S)
            closed.clear()


def test_connection_is_kept(connect: Callable[..., Any], tmp_path: Path) -> None:
    """Calls in turn share a connection, over a Unix socket too; the server is told of the budget and the headers."""
    heads: list[bytes] = []

    def act(visit: Visit) -> None:
        while head := visit.read()[0]:
            heads.append(head)
            visit.answer()

    with scripted(act, tmp_path / "s") as server:
        client = connect(server.url, headers={"Authorization": "Bearer k"}, budget="250ms")
        for _ in range(5):
            client.predict("a/b", {})
        assert len(server.visits) == 1
    assert heads[0].startswith(b"POST /v1/pipelines/a%2Fb/predict HTTP/1.1\r\nHost: localhost\r\n")
    assert b"\r\nAuthorization: Bearer k\r\n" in heads[0]
    told = float(heads[0].partition(b"X-Budget-Ms: ")[2].partition(b"\r\n")[0])
    assert 100 < told <= 250


def test_mistake_of_the_caller_costs_no_call(connect: Callable[..., Any]) -> None:
    """What cannot be written, a type that is none, and headers that cannot be sent, are told before all else."""
    client = connect(refused_url())
    with pytest.raises(InvalidRequestError, match="object"):
        client.predict("log", {"amount": object()})
    with pytest.raises(TypeError):
        client.predict("log", {}, into=7)
    with pytest.raises(SetupError):
        client.predict("log", {}, headers={"traceparent": "a\r\nb: c"})
    with pytest.raises(SetupError):
        client.predict("log", {}, budget="soon")


def test_headers_of_a_call_go_with_it(connect: Callable[..., Any]) -> None:
    """They stand beside those of the client, and the next call has none of them."""
    heads: list[bytes] = []

    def act(visit: Visit) -> None:
        while head := visit.read()[0]:
            heads.append(head)
            visit.answer()

    with scripted(act) as server:
        client = connect(server.url, headers={"X-Key": "k"})
        client.predict("log", {}, headers={"traceparent": "00-1-2-01"})
        client.predict("log", {})
    assert b"\r\ntraceparent: 00-1-2-01\r\n" in heads[0]
    assert [b"\r\nX-Key: k\r\n" in head for head in heads] == [True, True]
    assert b"traceparent" not in heads[1]


def test_server_that_is_not_there(connect: Callable[..., Any]) -> None:
    """A refused connection is tried again within the budget, then told."""
    with pytest.raises(UnavailableError, match="cannot connect"):
        connect(refused_url()).predict("log", {}, budget="300ms")


@pytest.mark.parametrize(
    ("status", "kind"), [("302 Found", ServerError), ("418 Teapot", ClientError), ("504 Late", OutOfTimeError)]
)
def test_status_of_a_proxy_is_told(connect: Callable[..., Any], status: str, kind: type[ServerError]) -> None:
    """An answer that is no problem of Tailrace's keeps its status and the beginning of its text."""

    def act(visit: Visit) -> None:
        visit.read()
        visit.answer(b"<html>" + b"x" * 5_000, status)

    with scripted(act) as server, pytest.raises(kind) as caught:
        connect(server.url).predict("log", {})
    assert caught.value.status == int(status[:3])
    assert "<html>" in caught.value.what
    assert len(caught.value.what) < 300
