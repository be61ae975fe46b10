"""The console's page of one decision: a process of its own answers, bounded in number, time and bytes."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from explaining_server import explained, printing
from serving import fetch, serving, wait_for

from tailrace.server.console import explaining as module

FOUND = '{"request_id": "r", "searched": {}, "answered": [{}]}'
ECHO = "import sys, json; print(json.dumps({'answered': [sys.argv[1:]]}))"


def asked(address: str, query: str, token: str = "") -> tuple[int, Any]:
    """Ask for an explanation; return the status and the document."""
    headers = {"Authorization": f"Bearer {token}"} if token else None
    request = urllib.request.Request(f"{address}/console/explanation?{query}", headers=headers or {})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def test_what_is_asked_is_what_the_command_is_given(tmp_path: Path) -> None:
    """The id is one argument, whatever stands in it; the log and the releases are the server's own."""
    with explained(str(tmp_path), (sys.executable, "-S", "-c", ECHO), releases="/shelf") as address:
        given = ["--log", str(tmp_path), "--releases", "/shelf", "--json"]
        for query, more in (
            ("id=--help", ["--", "--help"]),
            ("id=a%20b%26c%3B%24(id)&replay=1", ["--replay", "--", "a b&c;$(id)"]),
            ("trace=4bf9", ["--trace", "--", "4bf9"]),
        ):
            assert asked(address, query) == (200, {"answered": [[*given, *more]]})
        for query in ("", "id=", "id=a%00b", f"id={'a' * 1_025}"):
            status, problem = asked(address, query)
            assert (status, problem["detail"]) == (422, "no request is named")


def test_what_cannot_be_explained_is_answered_with_why(tmp_path: Path) -> None:
    """No log, no such request, a command that fails or says nothing: each has its status and its text."""
    with explained(None) as address:
        for path in ("explain?id=r", "explanation?id=r"):
            status, _, body = fetch(f"{address}/console/{path}")
            assert (status, json.loads(body)["detail"]) == (404, "this server keeps no log of its predictions")
    with explained("log", printing('{"answered": []}')) as address:
        assert asked(address, "id=r") == (404, {"answered": []})
    failing = (sys.executable, "-S", "-c", "import sys; sys.exit('error: DuckDB searches the log')")
    with explained("log", failing) as address:
        status, problem = asked(address, "id=r")
        assert (status, problem["detail"]) == (500, "DuckDB searches the log")
    with explained("log", ("/nowhere/tailrace",)) as address:
        assert asked(address, "id=r")[1]["detail"].startswith("no process can be started")


def test_page_is_open_and_explanations_ask_for_the_token() -> None:
    """The page holds nothing of a request, and its policy lets it run nothing that is not in it."""
    with explained("log", printing(FOUND), token="secret") as address:
        status, headers, body = fetch(f"{address}/console/explain?id=<script>alert(1)</script>")
        assert (status, b"alert(1)" in body) == (200, False)
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert asked(address, "id=r")[0] == 401
        assert asked(address, "id=r", "secret")[0] == 200


def test_one_is_explained_at_a_time_and_who_leaves_ends_it(tmp_path: Path) -> None:
    """A second one is told to come again; a process that nobody waits for any more is ended."""
    pid = tmp_path / "pid"
    code = f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    with explained("log", (sys.executable, "-S", "-c", code)) as address:
        port = int(address.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"GET /console/explanation?id=r HTTP/1.1\r\nHost: h\r\n\r\n")
            wait_for(lambda: pid.is_file() and pid.read_text(), 10.0)
            assert asked(address, "id=other")[0] == 503
        number = int(pid.read_text())
        wait_for(lambda: not _lives(number), 10.0)


def test_time_and_bytes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes too long is ended; what is too long is not sent."""
    monkeypatch.setattr(module, "TIME_S_MAX", 0.2)
    began_s = time.monotonic()
    with explained("log", (sys.executable, "-S", "-c", "import time; time.sleep(60)")) as address:
        assert asked(address, "id=r")[0] == 503
    assert time.monotonic() - began_s < 10
    monkeypatch.setattr(module, "TIME_S_MAX", 30.0)
    monkeypatch.setattr(module, "BYTES_MAX", 1 << 20)
    endless = (
        sys.executable,
        "-S",
        "-c",
        "import sys; sys.stdout.write('x' * (5 << 20)); sys.stderr.write('y' * (5 << 20))",
    )
    with explained("log", endless) as address:
        status, problem = asked(address, "id=r")
        assert (status, problem["detail"]) == (500, "it is longer than 1 MiB")


def test_who_does_not_read_holds_one_document_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody fills the supervisor's memory with answers that are not read: a second one waits, the first is closed."""
    monkeypatch.setattr(module, "SENT_S_MAX", 0.5)
    large = (sys.executable, "-S", "-c", "print('{\"answered\": [\"' + 'x' * (12 << 20) + '\"]}')")
    with explained("log", large) as address, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 12)
        client.connect(("127.0.0.1", int(address.rpartition(":")[2])))
        client.sendall(b"GET /console/explanation?id=r HTTP/1.1\r\nHost: h\r\n\r\n")
        assert client.recv(12) == b"HTTP/1.1 200"
        assert asked(address, "id=other")[0] == 503
        wait_for(lambda: asked(address, "id=other")[0] == 200, 10.0)
        client.settimeout(10)
        assert sum(map(len, iter(lambda: client.recv(1 << 20), b""))) < 12 << 20


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
def test_server_explains_what_it_has_answered_a_moment_ago(tmp_path: Path) -> None:
    """Of a real log that is being written, by the release that is served, while it is served."""
    file = tmp_path / "ask.py"
    file.write_text(
        "import tailrace as tr\n"
        "class Ask(tr.Request):\n    amount: float\n"
        "class Answer(tr.Response):\n    score: float\n    decision: str\n"
        "class Share:\n    def predict(self, feeds):\n        return feeds['features'][:, 0].astype(float) / 100\n"
        "ask = tr.Pipeline(name='ask', request=Ask, response=Answer, features=[Ask.amount],\n"
        "    model=tr.PythonModel('share', Share), decision=tr.bands('score', allow=0.0, block=0.5),\n"
        "    budget=tr.Budget('500ms'))\n"
    )
    with serving(tmp_path / "out", file, "--log", str(tmp_path / "log")) as server:
        assert server.ask("ask", {"amount": 60}, {"X-Request-Id": "r1"}).status == 200
        wait_for(lambda: asked(server.admin, "id=r1&replay=1")[0] == 200, 60.0)
        (answered,) = asked(server.admin, "id=r1&replay=1")[1]["answered"]
        assert (answered["request"], answered["release"]) == ({"amount": 60.0}, server.workers()[0]["release"])
        assert (answered["rows"][0]["decision"], answered["rows"][0]["reasons"]) == ("block", [])
        assert answered["replay"]["logged"]["is_equal"]
        status, missing = asked(server.admin, "id=r2")
        assert (status, missing["searched"]["drafts"]) == (404, 1)
