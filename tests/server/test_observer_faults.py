"""Faults on the way to the observer, on a real server under load: it serves on, and counts what is lost."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from serving import Server, load, serving, wait_for

pytest.importorskip("pyarrow")
from tailrace.monitor.log.draft_lines import read_draft

FILE = """
import numpy as np

import tailrace as tr


class Ask(tr.Request):
    amount: float
    note: str = ""


class Answer(tr.Response):
    score: float
    decision: str


class Share:
    def predict(self, feeds):
        return feeds["features"][:, 0].astype(float) / 100


@tr.on_demand
def checked(request: Ask) -> np.ndarray:
    if np.any(request.amount < 0):
        raise ValueError("no such amount")
    return request.amount


ask = tr.Pipeline(
    name="ask",
    request=Ask,
    response=Answer,
    features=[checked],
    model=tr.PythonModel("share", Share),
    decision=tr.bands("score", allow=0.0, block=0.5),
    budget=tr.Budget("2s"),
    coalesce=tr.Coalesce(ttl="30s"),
)
"""
LIMIT_S = 30.0
NOTE = "n" * 20_000
RING_BYTES = 16 << 20


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a pipeline that fails on what is below zero, and answers alike what is alike."""
    path = tmp_path / "ask.py"
    path.write_text(FILE)
    return path


def lines(log: Path) -> list[dict[str, Any]]:
    """Return the lines of a log that is written, whole and in order."""
    pq = pytest.importorskip("pyarrow.parquet")
    found: list[dict[str, Any]] = []
    for path in sorted(log.rglob("*.parquet")):
        found += pq.read_table(path).to_pylist()
    for path in sorted(log.rglob("*.arrows")):
        found += [line for batch in read_draft(path) for line in batch.to_pylist()]
    return found


def counted(server: Server) -> tuple[float, float]:
    """Return how many requests are logged, and how many are lost."""
    return server.metric("tailrace_predictions_logged_total"), server.metric("tailrace_predictions_lost_total")


def observer_of(server: Server) -> int:
    """Return the pid of the observer."""
    return int(next(each["pid"] for each in server.companions() if each["name"] == "observer"))


@pytest.mark.slow
def test_calls_without_a_score_are_logged(file: Path, tmp_path: Path) -> None:
    """One whose batch a user's function has broken off, and one that another's answer has answered."""
    log = tmp_path / "log"
    with serving(tmp_path / "out", file, "--log", str(log)) as server:
        for name, amount, status in (("scored", 7, 200), ("shared", 7, 200), ("broken", -1, 500)):
            answer = server.ask("ask", {"amount": amount}, {"X-Request-Id": name})
            assert (answer.status, answer.headers["x-request-id"]) == (status, name)
        wait_for(lambda: counted(server) == (3, 0), LIMIT_S)
    found = {line["request_id"]: line for line in lines(log)}
    assert len(list(log.rglob("*.parquet"))) == 1
    scored, shared, broken = (found[name] for name in ("scored", "shared", "broken"))
    assert (scored["score"], scored["coalesced"], scored["error"]) == (0.07, None, None)
    assert (shared["score"], shared["coalesced"], shared["error"]) == (None, "kept", None)
    assert json.loads(shared["answer"]) == {"score": 0.07, "decision": "allow"}
    assert (broken["score"], broken["features"], broken["error"]) == (None, None, "internal-error")
    assert json.loads(broken["request"]) == {"amount": -1.0, "note": ""}


@pytest.mark.slow
def test_ring_that_runs_over_costs_its_oldest_frames_alone(file: Path, tmp_path: Path) -> None:
    """The observer stands still while more comes than a ring holds: all is answered.

    What is lost is counted exactly; once it goes on, the newest are logged, and all that come then.
    """
    log = tmp_path / "log"
    bodies = [json.dumps({"amount": number, "note": NOTE}).encode() for number in range(1_600)]
    with serving(tmp_path / "out", file, "--log", str(log), "--frozen-s", "120") as server:
        stopped = observer_of(server)
        os.kill(stopped, signal.SIGSTOP)
        try:
            with load(server.predict_url("ask"), bodies, rate=400, duration_s=4.0, budget_ms=2_000) as report:
                assert report.result().statuses == {200: 1_600}
        finally:
            os.kill(stopped, signal.SIGCONT)
        wait_for(lambda: sum(counted(server)) == 1_600, LIMIT_S)
        logged, lost = counted(server)
        assert 0.6 * RING_BYTES / len(NOTE) < logged < RING_BYTES / len(NOTE)
        assert server.metric("tailrace_predictions_lost_total", 'reason="overwritten"') == lost
        assert server.ask("ask", {"amount": 5_000}).status == 200
        wait_for(lambda: counted(server) == (logged + 1, lost), LIMIT_S)
        assert observer_of(server) == stopped
    amounts = [json.loads(line["request"])["amount"] for line in lines(log)]
    assert len(amounts) == logged + 1
    assert set(amounts) >= set(range(1_400, 1_600)) | {5_000}
    assert 0 not in amounts


def are_back(server: Server, gone: int) -> bool:
    """Return whether all workers are ready, and none is the one that is gone."""
    return all(each["state"] == "ready" and each["pid"] != gone for each in server.workers())


@pytest.mark.slow
def test_worker_that_is_killed_while_it_writes_leaves_no_torn_line(file: Path, tmp_path: Path) -> None:
    """Under load, again and again: each frame that is read is whole, and its successor goes on in the same ring.

    What it held is not logged, and all else is.
    """
    log, kills = tmp_path / "log", 0
    bodies = [json.dumps({"amount": number, "note": f"{number}," * 200}).encode() for number in range(4_000)]
    options = ("--log", str(log), "--workers", "2")
    with serving(tmp_path / "out", file, *options) as server:
        with load(server.predict_url("ask"), bodies, rate=1_000, duration_s=12.0, budget_ms=2_000) as report:
            wait_for(lambda: sum(counted(server)) > 500, LIMIT_S)
            while not report.done():
                pid = server.workers()[kills % 2]["pid"]
                os.kill(pid, signal.SIGKILL)
                kills += 1
                wait_for(lambda pid=pid: are_back(server, pid) or report.done(), LIMIT_S)
                before = sum(counted(server))
                wait_for(lambda before=before: sum(counted(server)) > before or report.done(), LIMIT_S)
            ok = report.result().statuses.get(200, 0)
        server.ask("ask", {"amount": 9_000}, {"X-Request-Id": "last"})
        wait_for(lambda: any(line["request_id"] == "last" for line in lines(log)), LIMIT_S)
        assert server.metric("tailrace_predictions_lost_total", 'reason="unreadable"') == 0
        logged, lost = counted(server)
    assert (kills > 0, ok > 1_000, lost) == (True, True, 0)
    assert ok - kills * 100 <= logged <= ok + kills * 100 + 1
    for line in lines(log):
        request = json.loads(line["request"])
        assert request["note"] == f"{int(request['amount'])}," * 200 or line["request_id"] == "last"
