"""`tailrace serve --log`: what is answered is in the log, whatever becomes of the observer and of its disk."""

from __future__ import annotations

import json
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from serving import Server, serving, wait_for

from tailrace.errors import SetupError
from tailrace.monitor.log.draft_lines import read_draft
from tailrace.server import companions
from tailrace.server.companions import open_rings
from tailrace.server.options import ServeOptions

FILE = """
import numpy as np

import tailrace as tr


class Ask(tr.Request):
    amount: float


class Answer(tr.Response):
    score: float
    decision: str


class Share:
    def predict(self, feeds):
        return feeds["features"][:, 0].astype(float) / 100


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
LIMIT_S = 20.0


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a pipeline whose score is a hundredth of what it is asked."""
    path = tmp_path / "ask.py"
    path.write_text(FILE)
    return path


def lines(log: Path) -> list[dict[str, Any]]:
    """Return the lines of a log, whole files and drafts."""
    found: list[dict[str, Any]] = []
    for path in sorted(log.rglob("*.parquet")):
        found += pq.read_table(path).to_pylist()
    for path in sorted(log.rglob("*.arrows")):
        with suppress(FileNotFoundError):
            found += [line for batch in read_draft(path) for line in batch.to_pylist()]
    return found


def test_log_without_what_writes_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is started, with what to install."""
    monkeypatch.setattr(companions, "find_spec", lambda name: None)
    with pytest.raises(SetupError, match="pyarrow"), open_rings(ServeOptions(files=("ask.py",), log="log")):
        pass
    with open_rings(ServeOptions(files=("ask.py",))) as rings:
        assert rings == ()


def ask(server: Server, first: int, count: int) -> None:
    """Ask with amounts that differ, and see the answers."""
    for number in range(first, first + count):
        answer = server.ask("ask", {"amount": number}, {"X-Request-Id": f"r{number}"})
        assert answer.status == 200
        assert answer.body["score"] == number / 100


def ids(log: Path) -> list[str]:
    """Return the ids of the requests that are in a log."""
    return sorted(line["request_id"] for line in lines(log))


def observer_of(server: Server) -> int:
    """Return the pid of the observer."""
    (pid,) = (each["pid"] for each in server.companions() if each["name"] == "observer")
    return int(pid)


@pytest.mark.slow
def test_what_is_answered_is_logged_and_observers_that_die_cost_nothing(file: Path, tmp_path: Path) -> None:
    """Requests, scores and decisions are there within seconds, and those too that came while there was no observer."""
    log = tmp_path / "log"
    with serving(tmp_path / "out", file, "--log", str(log)) as server:
        ask(server, 0, 3)
        wait_for(lambda: ids(log) == ["r0", "r1", "r2"], LIMIT_S)
        unnamed = server.ask("ask", {"amount": 99}).headers["x-request-id"]
        wait_for(lambda: ids(log) == sorted([unnamed, "r0", "r1", "r2"]), LIMIT_S)
        (found,) = (line for line in lines(log) if line["request_id"] == "r2")
        assert json.loads(found["request"]) == {"amount": 2.0}
        assert found["features"] == {"amount": 2.0}
        assert (found["score"], found["decision"], found["degraded"]) == (0.02, "allow", [])
        assert found["release"] == server.workers()[0]["release"]
        assert 0 <= found["wait_us"] <= found["whole_us"]
        os.kill(observer_of(server), signal.SIGSTOP)
        ask(server, 3, 3)
        os.kill(observer_of(server), signal.SIGKILL)
        ask(server, 6, 3)
        wait_for(lambda: set(ids(log)) == {unnamed, *(f"r{number}" for number in range(9))}, LIMIT_S)
        assert server.metric("tailrace_predictions_lost_total") == 0
        ask(server, 9, 1)
    assert set(ids(log)) == {unnamed, *(f"r{number}" for number in range(10))}
    assert not list(log.rglob("*.arrows"))


@pytest.mark.slow
def test_disk_that_cannot_be_written_costs_no_request_and_is_made_up_for(file: Path, tmp_path: Path) -> None:
    """Where there is a file in the directory's place all is served, and told; once it is gone all is logged."""
    log = tmp_path / "log"
    log.write_text("in the way")
    with serving(tmp_path / "out", file, "--log", str(log)) as server:
        ask(server, 0, 4)
        wait_for(lambda: server.events("predictions wait for the disk"), LIMIT_S)
        ask(server, 4, 4)
        assert server.metric("tailrace_predictions_logged_total") == 0
        log.unlink()
        wait_for(lambda: server.metric("tailrace_predictions_logged_total") == 8, LIMIT_S)
        assert server.metric("tailrace_predictions_lost_total") == 0
        assert observer_of(server)
    assert ids(log) == sorted(f"r{number}" for number in range(8))


@pytest.mark.slow
def test_worker_that_is_killed_leaves_a_ring_that_its_successor_goes_on_with(file: Path, tmp_path: Path) -> None:
    """What it had told is logged, and so is what the next one tells."""
    log = tmp_path / "log"
    with serving(tmp_path / "out", file, "--log", str(log)) as server:
        ask(server, 0, 2)
        wait_for(lambda: ids(log) == ["r0", "r1"], LIMIT_S)
        (worker,) = server.workers()
        os.kill(worker["pid"], signal.SIGKILL)
        wait_for(lambda: server.workers()[0]["restarts"] == 1 and server.workers()[0]["state"] == "ready", LIMIT_S)
        ask(server, 2, 2)
        wait_for(lambda: ids(log) == ["r0", "r1", "r2", "r3"], LIMIT_S)
        assert server.metric("tailrace_predictions_lost_total") == 0


@pytest.mark.slow
def test_observer_that_is_stopped_for_long_is_replaced_and_what_the_ring_held_is_logged(
    file: Path, tmp_path: Path
) -> None:
    """It is silent, so the supervisor kills it; calls are answered all the while."""
    log = tmp_path / "log"
    options = ("--log", str(log), "--frozen-s", "2", "--heartbeat-s", "0.5")
    with serving(tmp_path / "out", file, *options) as server:
        stopped = observer_of(server)
        os.kill(stopped, signal.SIGSTOP)
        ask(server, 0, 5)
        wait_for(lambda: server.events("observer frozen"), LIMIT_S)
        wait_for(lambda: set(ids(log)) == {f"r{number}" for number in range(5)}, LIMIT_S)
        assert observer_of(server) != stopped
        assert server.metric("tailrace_predictions_lost_total") == 0


@pytest.mark.slow
def test_predictions_are_observed_without_a_log(file: Path, tmp_path: Path) -> None:
    """An observer is there and keeps nothing; what it is told of is lost by nobody."""
    with serving(tmp_path / "out", file, "--observe") as server:
        wait_for(lambda: observer_of(server), LIMIT_S)
        ask(server, 0, 50)
        assert server.metric("tailrace_predictions_lost_total") == 0
        assert [each["restarts"] for each in server.companions() if each["name"] == "observer"] == [0]
    assert not list(tmp_path.rglob("*.arrows"))
    assert not list(tmp_path.rglob("*.parquet"))
