"""The console of a real server: what it shows while workers die, an observer is stopped, and a thousand look on."""

from __future__ import annotations

import json
import os
import signal
import socket
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from serving import Server, connect, fetch, load, serving, wait_for
from visits import fill

from features.redis_server import RedisServer
from tailrace.server.console.feed import LISTENERS_MAX, STUCK_MESSAGES_MAX

pytestmark = pytest.mark.slow
FILE = """
import time

import structlog

import tailrace as tr


class Ask(tr.Request):
    amount: float


class Answer(tr.Response):
    score: float
    decision: str


class Share:
    def predict(self, feeds):
        amounts = feeds["features"][:, 0].astype(float)
        if (amounts == 77).any():
            structlog.get_logger().warning("a slow one", amount=77)
            time.sleep(0.08)
        return amounts / 100


ask = tr.Pipeline(
    name="ask",
    request=Ask,
    response=Answer,
    features=[Ask.amount],
    model=tr.PythonModel("share", Share),
    decision=tr.bands("score", allow=0.0, block=0.5),
    budget=tr.Budget("500ms"),
)
"""
LIMIT_S = 30.0
CONSOLES = 1_000
GROWTH_BYTES_MAX = 48 << 20
"""Of the supervisor: what a thousand connections may add."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a pipeline that takes long for one amount."""
    path = tmp_path / "ask.py"
    path.write_text(FILE)
    return path


def whole(server: Server) -> dict[str, Any]:
    """Return what a page that opens is told."""
    found: dict[str, Any] = json.loads(fetch(f"{server.admin}/console/state")[2])
    return found


def slow(server: Server) -> list[dict[str, Any]]:
    """Return the slow requests that are shown."""
    found: list[dict[str, Any]] = whole(server)["state"]["observed"]["slow"].get("ask", [])
    return found


def texts(server: Server, part: str) -> str:
    """Return the texts of the log's lines, or of the timeline."""
    found = whole(server)
    return "\n".join(each["text"] for each in (found["lines"] if part == "lines" else found["state"]["happenings"]))


def listen(server: Server) -> socket.socket:
    """Return a connection that has asked for the feed."""
    connection = connect(server.admin)
    connection.sendall(b"GET /console/events HTTP/1.1\r\nHost: a\r\n\r\n")
    return connection


def test_slow_request_is_shown_with_its_layers_and_what_its_worker_logged(file: Path, tmp_path: Path) -> None:
    """Without a log too; what was sent is nowhere in what is told."""
    with serving(tmp_path / "out", file, "--observe") as server:
        for number in range(30):
            server.ask("ask", {"amount": number}, {"X-Request-Id": f"r{number}"})
        server.ask("ask", {"amount": 77}, {"X-Request-Id": "slow-one"})
        wait_for(lambda: [each for each in slow(server) if each["id"] == "slow-one"], LIMIT_S)
        first = slow(server)[0]
        assert (first["id"], first["decision"], first["score"]) == ("slow-one", "block", 0.77)
        assert first["whole"] > 80
        assert max(first["layers"]) == first["layers"][2] > 80
        assert not whole(server)["state"]["explains"]
        wait_for(lambda: "a slow one amount=77" in texts(server, "lines"), LIMIT_S)
        assert {each["who"] for each in whole(server)["lines"]} >= {"", "worker 0"}


def test_slow_request_leads_to_its_explanation(file: Path, tmp_path: Path) -> None:
    """With a log the page links each to the page that explains it, and that finds it."""
    with serving(tmp_path / "out", file, "--log", str(tmp_path / "log")) as server:
        server.ask("ask", {"amount": 7}, {"X-Request-Id": "slow-one"})
        wait_for(lambda: slow(server), LIMIT_S)
        assert whole(server)["state"]["explains"]
        assert fetch(f"{server.admin}/console/explain?id=slow-one")[0] == 200
        with urlopen(f"{server.admin}/console/explanation?id=slow-one", timeout=60) as answer:
            explained = json.loads(answer.read())
        assert explained["request_id"] == "slow-one"
        assert explained["answered"][0]["pipeline"] == "ask"


def test_observer_that_is_stopped_is_told_of_and_comes_back(file: Path, tmp_path: Path) -> None:
    """Nothing of before is shown meanwhile, serving goes on, and what comes after the restart is shown again."""
    with serving(tmp_path / "out", file, "--observe", "--frozen-s", "12") as server:
        server.ask("ask", {"amount": 1}, {"X-Request-Id": "before"})
        wait_for(lambda: slow(server), LIMIT_S)
        (observer,) = (each["pid"] for each in server.companions() if each["name"] == "observer")
        os.kill(observer, signal.SIGSTOP)
        wait_for(lambda: whole(server)["state"]["observed"]["observer"] == "silent", LIMIT_S)
        assert slow(server) == []
        assert server.ask("ask", {"amount": 2}).status == 200
        wait_for(lambda: whole(server)["state"]["observed"]["observer"] == "on", LIMIT_S)
        server.ask("ask", {"amount": 3}, {"X-Request-Id": "after"})
        wait_for(lambda: any(each["id"] == "after" for each in slow(server)), LIMIT_S)
        assert "observer has died and is started anew" in texts(server, "happenings")
        assert "observer frozen" in texts(server, "lines")


def test_killed_worker_is_on_the_timeline(file: Path, tmp_path: Path) -> None:
    """With its successor, and with the cause among the lines of the log."""
    with serving(tmp_path / "out", file, "--workers", "2") as server:
        os.kill(server.workers()[1]["pid"], signal.SIGKILL)
        wait_for(lambda: "worker 1 has died and is started anew" in texts(server, "happenings"), LIMIT_S)
        wait_for(lambda: "worker 1 is ready" in texts(server, "happenings"), LIMIT_S)
        assert "cause=signal SIGKILL" in texts(server, "lines")


def test_breaker_that_opens_is_on_the_timeline_and_in_the_verdict(tmp_path: Path, pipelines_dir: Path) -> None:
    """Of a Redis that is stopped under a server, and that comes back."""
    file, redis = pipelines_dir / "faulted.py", RedisServer(tmp_path)
    redis.start()
    try:
        fill(redis.url, file)
        with serving(tmp_path / "out", file, "--store", redis.url) as server:

            def told(text: str) -> bool:
                server.ask("faulted", {"customer_id": 7, "shop_id": "shop-7"})
                return text in texts(server, "happenings")

            redis.pause()
            try:
                wait_for(lambda: told("faulted: the breaker of the store has opened"), LIMIT_S)
                wait_for(lambda: told("Breakers open: 1") or told("Degraded"), LIMIT_S)
            finally:
                redis.resume()
            wait_for(lambda: told("faulted: the breaker of the store has closed"), LIMIT_S)
            assert "answers degraded" in texts(server, "lines")
    finally:
        redis.kill()


def test_thousand_consoles_leave_serving_untouched(file: Path, tmp_path: Path) -> None:
    """Those beyond the limit are refused and counted, readers that do not read are dropped, no request is lost."""
    with serving(tmp_path / "out", file, "--observe") as server:
        bodies = [b'{"amount": %d}' % number for number in range(50)]
        opened: list[socket.socket] = []
        before = memory(server.process.pid)
        try:
            with load(server.predict_url("ask"), bodies, rate=200, duration_s=STUCK_MESSAGES_MAX + 4) as report:
                opened += [listen(server) for _ in range(CONSOLES)]
                wait_for(lambda: whole(server)["state"]["refused"] == CONSOLES - LISTENERS_MAX, LIMIT_S)
                assert whole(server)["state"]["consoles"] == LISTENERS_MAX
                assert fetch(f"{server.admin}/metrics")[0] == 200
                assert report.result().statuses == {200: report.result().shots}
            assert memory(server.process.pid) - before < GROWTH_BYTES_MAX
        finally:
            for connection in opened:
                connection.close()
        wait_for(lambda: whole(server)["state"]["consoles"] == 0, LIMIT_S)
        with listen(server) as connection:
            assert connection.recv(12) == b"HTTP/1.1 200"


def memory(pid: int) -> int:
    """Return the resident bytes of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
