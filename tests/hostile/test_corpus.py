"""The corpus against every way into a server: each case comes to what its file says, and the neighbour is answered."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hostile_corpus import SOUND_POST, Case, cases, statuses
from http_server import PATIENCE_S, RunningServer, ample, rss_bytes, wait_for
from secret_port import secret_port
from structlog.testing import capture_logs
from tls_client import Wrapped
from tls_files import Authority

from tailrace.codecs.proto_form import message_forms
from tailrace.codecs.proto_lock import lock_path, locked, write_lock
from tailrace.pipeline import Pipeline
from tailrace.server.acceptor import Acceptor
from tailrace.server.slots import BACKLOG
from tailrace.server.tls.certificates import Certificates, TlsFiles

DOORS = ("port", "unix", "tls")
CASE_S_MAX = 2.0
"""What a case may take, on a busy machine: each is bounded by bytes, none by a time-out."""


class Hostile:
    """A server, and how it is reached by each door."""

    def __init__(self, server: RunningServer, path: Path, authority: Authority, stack: ExitStack) -> None:
        self.server = server
        self.path = path
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(str(path))
        listener.listen(BACKLOG)
        self._trusting = authority.trusting()
        signed = authority.server()
        self._secret = stack.enter_context(
            secret_port(server, Certificates(TlsFiles(str(signed.cert), str(signed.key))))
        )
        acceptor: Acceptor = server.on_loop(lambda: Acceptor(listener, server.http))
        drain = partial(acceptor.drain, shut=True)
        stack.callback(lambda: asyncio.run_coroutine_threadsafe(drain(), server.loop).result(PATIENCE_S))

    def connect(self, door: str) -> Any:
        """Return a connection."""
        if door == "tls":
            return Wrapped(self._secret.address, self._trusting)
        if door == "port":
            return socket.create_connection(self.server.address, PATIENCE_S)
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(PATIENCE_S)
        sock.connect(str(self.path))
        return sock


@pytest.fixture(scope="module")
def hostile(pipeline_of: Callable[[str], Pipeline], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hostile]:
    """Start a server that speaks every codec, by port and by path."""
    folder = tmp_path_factory.mktemp("hostile")
    pipeline = ample(pipeline_of("log"))
    write_lock(locked(message_forms(pipeline.request, pipeline.response), None), lock_path(folder, pipeline.name))
    with ExitStack() as stack:
        server = stack.enter_context(RunningServer([replace(pipeline, sources_dir=folder)]))
        yield Hostile(server, folder / "s", Authority(folder), stack)


def told(sock: Any, data: bytes) -> bytes:
    """Send data, say that no more comes, and return all that is answered; the server may have had enough before."""
    found = []
    with closing(sock), suppress(ConnectionError, ssl.SSLError):
        sent = 0
        with suppress(ConnectionError, ssl.SSLError):
            while sent < len(data):
                sent += sock.send(data[sent : sent + 65_536])
            sock.shutdown(socket.SHUT_WR)
        while part := sock.recv(65_536):
            found.append(part)
    return b"".join(found)


def check(case: Case, answers: bytes) -> None:
    """Assert that a case, with a sound request behind it, came to what its file says."""
    found, bodies = statuses(answers)
    assert tuple(found) in case.answers
    assert case.says.encode() in b"".join(bodies[:1])
    if len(found) > 1 and found[-1] == 200:
        assert b'"label":"sound"' in bodies[-1]
    assert b"smuggled" not in b"".join(bodies)


@contextmanager
def unharmed(server: RunningServer) -> Iterator[None]:
    """Assert that nothing failed in a server meanwhile, and that it keeps nothing of those who are gone."""
    with capture_logs() as logs:
        yield
    assert [line for line in logs if line["log_level"] in ("error", "critical")] == []
    wait_for(lambda: not server.http.connections, "all connections are gone")
    assert server.load.bytes == 0


@pytest.mark.parametrize("case", cases(), ids=lambda case: f"{case.family}: {case.name}")
def test_case_comes_to_what_is_expected(hostile: Hostile, case: Case) -> None:
    """Answers and bounds are those of the file, no fault is ours, and it takes no time."""
    began_s = time.monotonic()
    with unharmed(hostile.server):
        for door in DOORS:
            check(case, told(hostile.connect(door), case.data + SOUND_POST))
    assert time.monotonic() - began_s < CASE_S_MAX


def test_cases_leave_no_memory_behind(hostile: Hostile) -> None:
    """What they took is given back: the tenth time all of them together take no more than the first."""

    def all_of_them() -> None:
        for case in cases():
            told(hostile.connect("port"), case.data + SOUND_POST)

    all_of_them()
    before = rss_bytes()
    for _ in range(2):
        all_of_them()
    assert rss_bytes() - before < 16 << 20
