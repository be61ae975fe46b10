"""Hostile bounds through a real nginx and a real HAProxy: front and back agree on where each request ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hostile_corpus import SOUND_POST, Case, cases, statuses
from http_server import PATIENCE_S, RawClient, RunningServer, ample, payment_of, post
from real_proxies import PROXIES, start_proxy
from test_corpus import told

from tailrace.pipeline import Pipeline
from tailrace.server.endpoint import Answer, Page
from tailrace.server.http.connection import Connection

SETTLED_S = 0.02
"""Between two looks at a proxy's log."""


@dataclass
class Front:
    """A proxy that says in its log which requests it has sent on, and a server that counts what comes. log: of it."""

    address: tuple[str, int]
    server: RunningServer
    log: Path
    came: list[object] = field(default_factory=list)
    """The requests that the server has read, and those that it refused to read on."""

    def connect(self) -> RawClient:
        """Return a client of the proxy."""
        return RawClient(self.address)

    def sent(self) -> int:
        """Return how many requests the proxy says it has sent on."""
        return sum(line.strip().startswith("sent s") for line in self.log.read_text().splitlines())


@pytest.fixture(scope="module", params=PROXIES)
def front(
    request: pytest.FixtureRequest, pipeline_of: Callable[[str], Pipeline], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Front]:
    """Start a proxy that asks the server over as few connections as it may."""
    name, folder, pipeline = request.param, tmp_path_factory.mktemp(request.param), ample(pipeline_of("log"))
    came: list[object] = []
    ready = Page(lambda: Answer(200, b"text/plain", b"ready\n"))

    class Counted(Connection):
        """A connection that tells what comes."""

        def serve(self, head: Any, *more: Any) -> None:
            """Tell of a request, but for the proxy's own that asks whether the server is ready."""
            if head.endpoint is not ready:
                came.append(head)
            super().serve(head, *more)

        def refuse(self, error: Any, head: Any) -> None:
            """Tell of one that is refused."""
            came.append(error)
            super().refuse(error, head)

    def change(text: str) -> str:
        if name == "nginx":
            text = text.replace("    keepalive 64;", "    keepalive 1;")
            log = "log_format told 'sent s$upstream_status';\nmap $upstream_status $was_sent { '' 0; default 1; }\n"
            return log + text.replace("    location", f"    access_log {folder}/sent told if=$was_sent;\n    location")
        text = text.replace("    balance leastconn", "    balance leastconn\n    http-reuse always")
        return text.replace(
            "    mode http\n", '    mode http\n    log stdout format raw local0\n    log-format "sent %s"\n'
        )

    with ExitStack() as stack:
        server = stack.enter_context(RunningServer([pipeline], Counted))
        server.http.shared.routes[b"/readyz"] = {b"GET": ready}  # type: ignore[index]
        address = start_proxy(stack, name, folder, pipeline, server.address, change)
        yield Front(address, server, folder / ("sent" if name == "nginx" else "log"), came)


def ask(front: Front, label: str) -> None:
    """Assert that a neighbour gets its own answer, twice on one connection."""
    with front.connect() as client:
        for place in range(2):
            answer = client.ask(post(payment_of(2.0, f"{label} {place}")))
            assert (answer.status, answer.json["label"]) == (200, f"{label} {place}")


def test_no_case_moves_a_neighbours_answer(front: Front) -> None:
    """All cases one after the other: no answer comes to another caller, and no request was read that was not sent."""
    settle(front)
    came, sent = len(front.came), front.sent()
    for case in cases("smuggling", "chunks"):
        told_through(front, case.data + SOUND_POST)
        ask(front, case.name)
    settle(front)
    assert len(front.came) - came <= front.sent() - sent


@pytest.mark.slow  # each case alone, which tells which one it is
@pytest.mark.parametrize("case", cases("smuggling", "chunks"), ids=lambda case: f"{case.family}: {case.name}")
def test_front_and_back_agree_on_where_a_request_ends(front: Front, case: Case) -> None:
    """The server reads no request that the proxy did not send as one, and a neighbour's answer is its own."""
    ask(front, "before")
    settle(front)
    came, sent = len(front.came), front.sent()
    answers = told_through(front, case.data + SOUND_POST)
    found, bodies = statuses(answers)
    settle(front)
    assert len(front.came) - came <= front.sent() - sent
    if 200 in found and len(case.answers[0]) < 2:
        assert all(b'"label":"sound"' in body for status, body in zip(found, bodies, strict=True) if status == 200)
    ask(front, "after")


def told_through(front: Front, data: bytes) -> bytes:
    """Return what the proxy answers until it ends the connection, or is silent: some wait for more for long."""
    client = front.connect()
    client.sock.settimeout(1.0)
    try:
        return told(client.sock, data)
    except TimeoutError:
        return b""


def settle(front: Front) -> None:
    """Come back once the proxy has logged what it has sent: it does so at the end of a request."""
    front.server.settle()
    end_s, before = time.monotonic() + PATIENCE_S, -1
    while before != (now := front.sent()):
        assert time.monotonic() < end_s
        before = now
        time.sleep(SETTLED_S)
