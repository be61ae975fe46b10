"""A real server whose model is at another one: under load, through its faults, and when a worker dies in its outage."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
from serving import load, serving, start_serve, wait_for

from inference.protocol_server import ProtocolServer

PIPELINE = """
import tailrace as tr

class Row(tr.Request):
    a: float

class Scored(tr.Response):
    a: float
    score: float

far = tr.Pipeline(name="far", request=Row, response=Scored, features=[Row.a], budget=tr.Budget("100ms"),
                  model=tr.RemoteModel("fraud", url="URL", fallback=tr.Constant(-1.0), DECLARED))
"""
DECLARED = 'inputs=[tr.RemoteInput("x")], output="score"'
FAULTS = ("stall", "garbage", "reset_midway", "other_id", "rows_many", "close_at_once")


@pytest.mark.slow
def test_faults_of_the_server_never_become_scores(tmp_path: Path) -> None:
    """Under load every answer has its own row's score or the fallback's, none fails, and all heals."""
    with ProtocolServer(width=1) as far:
        (tmp_path / "far.py").write_text(PIPELINE.replace("URL", far.url()).replace(", DECLARED", ""))
        bodies = [json.dumps({"a": float(value)}).encode() for value in range(500)]
        with serving(tmp_path / "log", tmp_path / "far.py") as server:
            with load(server.predict_url("far"), bodies, rate=150, duration_s=6, budget_ms=500) as report:
                for far.fault in (*FAULTS, ""):
                    time.sleep(0.6)
            found = report.result()
            assert set(found.statuses) <= {200, 503}
            assert found.statuses[200] > 0.8 * found.shots
            answers = [json.loads(body) for body in found.record.bodies if body and b"score" in body]
            assert all(answer["score"] in {answer["a"], -1.0} for answer in answers)
            fallbacks = sum(answer["score"] != answer["a"] for answer in answers)
            assert 0 < fallbacks < len(answers)
            wait_for(lambda: server.ask("far", {"a": 7.0}).body["score"] == 7.0, 10)
            for reason in ("late", "unreadable", "foreign", "misshapen", "left_alone"):
                labels = ('model="fraud"', f'reason="{reason}"')
                wait_for(lambda named=labels: server.metric("tailrace_remote_failures_total", *named) > 0, 5)
            assert server.metric("tailrace_remote_seconds_count", 'model="fraud"') > 100
            assert server.metric("tailrace_remote_breaker_openings_total", 'model="fraud"') > 0


@pytest.mark.slow
@pytest.mark.parametrize("declared", [DECLARED, ""])
def test_worker_that_dies_in_an_outage_comes_back(tmp_path: Path, declared: str) -> None:
    """Its model's server is down when a worker is replaced: it serves the fallback, and the server once it is back.

    What the server said when the release was made is kept with it, so that nothing need be declared for that.
    """
    with ProtocolServer(width=1) as far:
        port = far.port
        (tmp_path / "far.py").write_text(PIPELINE.replace("URL", far.url()).replace("DECLARED", declared))
        with serving(tmp_path / "log", tmp_path / "far.py") as server:
            assert server.ask("far", {"a": 3.0}).body["score"] == 3.0
            far.close()
            (worker,) = server.workers()
            os.kill(worker["pid"], signal.SIGKILL)
            wait_for(lambda: [each for each in server.workers() if each["pid"] not in {0, None, worker["pid"]}], 30)
            answer = wait_for(
                lambda: (found := server.ask("far", {"a": 3.0}, {"X-Trace": "1"})).status == 200 and found, 30
            )
            assert answer.body["score"] == -1.0
            assert answer.degraded == {"model_error"}
            assert str(port) in wait_for(lambda: server.events("answers degraded"), 5)[0]["error"]
            with ProtocolServer(width=1, port=port) as back:
                wait_for(lambda: server.ask("far", {"a": 3.0}).body["score"] == 3.0, 10)
                assert all(request.method == "POST" for request in back.requests)


@pytest.mark.slow
def test_server_starts_without_the_one_that_it_asks(tmp_path: Path) -> None:
    """Declared whole, a pipeline starts while its model's server is down, with a line in the log; else it does not."""
    with ProtocolServer(width=1) as far:
        url, port = far.url(), far.port
    file = tmp_path / "far.py"
    file.write_text(PIPELINE.replace("URL", url).replace("DECLARED", DECLARED))
    with serving(tmp_path / "log", file) as server:
        assert "taken as declared" in server.events("remote model was not checked")[0]["error"]
        assert server.ask("far", {"a": 3.0}).body["score"] == -1.0
        with ProtocolServer(width=1, port=port):
            wait_for(lambda: server.ask("far", {"a": 3.0}).body["score"] == 3.0, 10)
    file.write_text(PIPELINE.replace("URL", url).replace("DECLARED", ""))
    server = start_serve(tmp_path / "other.log", file)
    assert server.process.wait(30) == 1
    assert "start the server, or declare inputs and output" in server.log.read_text()
