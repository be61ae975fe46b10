"""Feast beside Tailrace: what it is asked, what it answers, and what is said where it cannot be installed."""

from __future__ import annotations

import json
import sys
import time
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, cast

import pytest

import feast_peer
from machine import BenchError
from part import Session
from peers import Server
from tailrace.loadtest.processes import Process, start


def answer_of(values: dict[str, Any]) -> dict[str, Any]:
    """Return values as Feast's server answers them, with the join key among them."""
    return {
        "metadata": {"feature_names": ["customer_id", *values]},
        "results": [{"values": [value], "statuses": ["PRESENT"]} for value in (7, *values.values())],
    }


def test_requests_name_the_same_entities(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are asked of the customer and the terminal of each payment, in one order."""
    monkeypatch.setattr(feast_peer, "LOOKED_UP", tmp_path)
    payments = tmp_path / "payments.jsonl"
    payments.write_text('{"customer_id": 7, "terminal_id": 9, "amount": 1.0}\n{"customer_id": 8, "terminal_id": 9}\n')
    own, theirs = ([json.loads(line) for line in path.read_text().splitlines()]
                   for path in feast_peer.write_bodies(payments))  # fmt: skip
    assert own == [{"customer_id": 7, "terminal_id": 9}, {"customer_id": 8, "terminal_id": 9}]
    assert [each["entities"] for each in theirs] == [
        {"customer_id": [7], "terminal_id": [9]}, {"customer_id": [8], "terminal_id": [9]},
    ]  # fmt: skip


def test_answer_without_a_value_is_refused() -> None:
    """The join keys are no features; a feature that Feast has no value of would make its answer a cheap one."""
    assert feast_peer.feast_values(answer_of({"mean": 0.5, "count": 3})) == {"mean": 0.5, "count": 3}
    with pytest.raises(BenchError, match="no value of count"):
        feast_peer.feast_values(answer_of({"mean": 0.5, "count": None}))


@pytest.mark.parametrize("wrong", [{"mean": 0.5, "count": 4}, {"mean": 0.5}])
def test_servers_that_answer_otherwise_are_not_compared(wrong: dict[str, Any], tmp_path: Path) -> None:
    """Each value must be the same, and none may be missing."""
    answers = {"/own": {"mean": 0.5, "count": 3, "score": 0.5}, "/right": answer_of({"mean": 0.5, "count": 3}),
               "/wrong": answer_of(wrong)}  # fmt: skip

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            body = json.dumps(answers[self.path]).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            """Say nothing."""

    bodies = tmp_path / "bodies.jsonl"
    bodies.write_text("{}\n")
    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        url = f"http://127.0.0.1:{http.server_port}"
        own, right, other = (Server(cast(Any, None), f"{url}/{name}", 0.0) for name in ("own", "right", "wrong"))
        try:
            feast_peer.compare(own, right, bodies, bodies)
            with pytest.raises(BenchError, match="Feast"):
                feast_peer.compare(own, other, bodies, bodies)
        finally:
            http.shutdown()
            thread.join()


def working(stack: ExitStack, log: Path, code: str) -> Process:
    """Return a process that has begun to run some code."""
    process = start(stack, "feast", [sys.executable, "-c", f"import time\nprint('on', flush=True)\n{code}"], log)
    while not process.tail():
        time.sleep(0.01)
    return process


def test_turn_begins_once_the_other_server_is_at_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is worked off after a load is waited for; a server that never rests is an error."""
    monkeypatch.setattr(feast_peer, "STILL_S", 0.4)  # on a busy machine a process gets no core for a while
    with ExitStack() as stack:
        server = working(stack, tmp_path / "log", "while time.process_time() < 0.3: pass\ntime.sleep(60)")
        feast_peer.wait_idle(server)
        assert server.cpu_s() >= 0.29
        server = working(stack, tmp_path / "other", "while True: pass")
        with pytest.raises(BenchError, match="feast is still at work"):
            feast_peer.wait_idle(server, 0.0)


def test_feast_that_cannot_be_installed_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Feast there is no ratio and no error, but a note; what was begun is no venv the next time."""
    monkeypatch.setattr(feast_peer, "VENV", tmp_path / "feast")
    monkeypatch.setattr(feast_peer, "FEAST", f"feast @ file://{tmp_path}/nowhere.whl")
    session = Session()
    assert feast_peer.measure_feast(session, tmp_path / "none.jsonl") == {}
    assert "Feast cannot be installed here" in session.notes[0]
    with pytest.raises(feast_peer.NoPeerError):
        feast_peer.make_venv(tmp_path / "feast", feast_peer.FEAST)
