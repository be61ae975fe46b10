"""Requests are checked after their answers by a process of its own: counted, logged, and never waited for."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest
from http_server import wait_for
from serving import start_serve

import tailrace as tr
from tailrace.batch import Batch
from tailrace.compile.loading import load_pipelines
from tailrace.deadline import LAYERS
from tailrace.errors import CompileError
from tailrace.monitor.layout import worker_layout
from tailrace.monitor.metrics import LATE_OUTCOMES
from tailrace.monitor.shared import MetricBlock
from tailrace.pipeline import Pipeline
from tailrace.release.pinned import Pin
from tailrace.server.checking.link import Checking, LateChecks
from tailrace.server.checking.messages import PACKET_BYTES_MAX, Outcome, Outcomes, Requests, decode
from tailrace.server.checking.process import Checks
from tailrace.server.declared import shape_of
from tailrace.server.logging import logger

FILE = '''
"""A pipeline with checks that hold, do not, raise and have no end."""

import time
from datetime import datetime

import numpy as np

import tailrace as tr


class Payment(tr.Request):
    iban: str
    time: datetime | None = None


class Score(tr.Response):
    score: float


class Half:
    """Scores a half."""

    def predict(self, feeds):
        """Return a half for each row."""
        return np.full(len(feeds["features"]), 0.5)


def checksum(request: Payment) -> bool:
    """Say whether an account is one; some raise, and one is never done."""
    while request.iban == "endless":
        time.sleep(0.01)
    if request.iban == "raises":
        raise ValueError(request.iban)
    return request.iban != "broken"


@tr.on_demand
def length(request: Payment) -> np.ndarray:
    """Return how long the accounts are."""
    return np.array([len(iban) for iban in request.iban], float)


checked = tr.Pipeline(
    name="checked", request=Payment, response=Score, features=[length], model=tr.PythonModel("half", Half),
    budget=tr.Budget("5s"), validate_later=[tr.LateCheck("iban", checksum), tr.LateCheck("any", lambda request: True)],
)
'''


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of the pipeline."""
    path = tmp_path_factory.mktemp("checked") / "pipeline.py"
    path.write_text(FILE)
    return path


class Aged(tr.Request):
    age: Annotated[int, tr.Field(ge=0)] = -1


class Bench:
    """A worker's side, without a worker: what it counts, and the process that checks."""

    def __init__(self, file: Path) -> None:
        (self.pipeline,) = load_pipelines(file)
        folder = str(file.parent)
        pin = Pin(root=folder, folder=folder, number=0, files=(str(file),), folders=((folder, folder),))
        self.block = MetricBlock.create(worker_layout([shape_of(self.pipeline)]))
        self.checking = Checking(pin, logger())
        self.checks: LateChecks = self.checking.add(self.pipeline, self.block)

    def answer(self, *ibans: str) -> None:
        """Tell of a batch that was answered."""
        batch = Batch([], 0, 0, requests=[self.pipeline.request(iban=iban) for iban in ibans])
        batch.marks_ns = [0] * (len(LAYERS) + 1)
        self.checks.record(batch, 0)

    def counts(self, check: str = "iban") -> tuple[int, ...]:
        """Return how many of each outcome there are by now."""
        self.checking.look()
        find, cells = self.block.find, self.block.cells
        names = [outcome.name.lower() for outcome in Outcome]
        return tuple(int(cells[find("tailrace_late_checks_total", "checked", check, name).offset]) for name in names)


@contextmanager
def beginning(file: Path) -> Iterator[Bench]:
    """Give a worker's side; afterwards its process is gone."""
    bench = Bench(file)
    try:
        yield bench
    finally:
        pid = bench.checking.pid
        bench.checking.close()
    assert not pid or not Path(f"/proc/{pid}").exists()


@pytest.fixture
def bench(file: Path) -> Iterator[Bench]:
    """Return a worker's side."""
    with beginning(file) as bench:
        yield bench


def test_outcomes_are_those_of_the_metric() -> None:
    """In the order in which they are counted."""
    assert tuple(outcome.name.lower() for outcome in Outcome) == LATE_OUTCOMES


def test_what_is_found_is_counted_and_logged(file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """By check; of one that raises the kind of its error alone, since its words may be the request's."""
    logged: list[dict[str, Any]] = []

    def told() -> bool:
        lines = capfd.readouterr().err.splitlines()
        logged.extend(json.loads(line) for line in lines if '"late check"' in line)
        return sum(each["requests"] for each in logged) == 3

    with beginning(file) as bench:
        bench.answer("good", "broken", "raises", "broken")
        bench.answer("good")
        wait_for(lambda: sum(bench.counts()) == 5, "all is checked")
        assert bench.counts() == (2, 2, 1, 0)
        assert bench.counts("any") == (5, 0, 0, 0)
        wait_for(told, "it is logged")
    assert {each["found"] for each in logged} == {"broken", "failed: ValueError"}
    assert {(each["pipeline"], each["check"]) for each in logged} == {("checked", "iban")}
    assert "raises" not in json.dumps(logged)


def test_requests_that_share_an_answer_are_checked_each(bench: Bench) -> None:
    """They may differ in what the answer does not depend on."""
    requests = [bench.pipeline.request(iban=iban) for iban in ("good", "broken")]
    bench.checks.record_coalesced(Batch([], 0, 0, requests=requests, coalesced="kept"), 0)
    wait_for(lambda: sum(bench.counts()) == 2, "all is checked")
    assert bench.counts() == (1, 1, 0, 0)


def test_answering_never_waits_for_a_check(bench: Bench) -> None:
    """While one has no end, what does not fit is dropped and counted, and the process ends when it is to end."""
    bench.answer("endless")
    began_s = time.monotonic()
    for _ in range(400):
        bench.answer(*["a" * 1_000] * 20)
    assert time.monotonic() - began_s < 2
    assert bench.counts()[Outcome.DROPPED] > 1_000
    assert bench.counts()[Outcome.HELD] == 0


def test_default_beyond_its_bounds_is_checked_as_any_other(pipeline_of: Callable[[str], Pipeline]) -> None:
    """What a request has of its type is not held to the type's bounds; one that cannot be read again has failed."""
    late = [tr.LateCheck("age", lambda request: request.age < 5)]
    pipeline = replace(pipeline_of("log"), request=Aged, features=[Aged.age], validate_later=late)
    checks = Checks(0, pipeline)
    requests = [Aged(), Aged(age=7), Aged(age=3), Aged(age=-2)]
    checks.take(Requests(0, 0.0, len(requests), msgspec.msgpack.encode(requests)), 0.0)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        checks.tell(theirs, 0.0)
        assert decode(ours.recv(1_000), Outcomes).counts == [[2, 1, 1, 0]]


def test_request_too_long_for_a_packet_is_dropped_alone(bench: Bench) -> None:
    """Those beside it are checked; so they are beside one with what no packet can hold."""
    bench.answer("good", "a" * PACKET_BYTES_MAX, "broken", "b" * (PACKET_BYTES_MAX - 200))
    wait_for(lambda: sum(bench.counts()) == 4, "all is checked")
    assert bench.counts() == (2, 1, 0, 1)
    bench.answer("good", 10**30, "broken")  # type: ignore[arg-type]
    wait_for(lambda: sum(bench.counts()) == 7, "all is checked")
    assert bench.counts() == (3, 2, 0, 2)


def test_process_that_dies_is_replaced(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a pause, within which requests are dropped; what it had is not checked."""
    monkeypatch.setattr("tailrace.server.checking.link.BACK_OFF_S", (0.05, 0.1))
    bench.answer("good")
    wait_for(lambda: sum(bench.counts()) == 1, "the first is checked")
    first = bench.checking.pid
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: bench.counts() is not None and not bench.checking.pid, "its end is seen")
    bench.answer("good")
    assert bench.counts()[Outcome.DROPPED] == 1
    wait_for(lambda: bench.counts() is not None and bench.checking.pid not in (0, first), "there is another")
    bench.answer("broken")
    wait_for(lambda: bench.counts()[Outcome.BROKEN] == 1, "it checks")


@pytest.mark.parametrize(
    ("checks", "where"),
    [
        (3, "validate_later"),
        ([len], r"validate_later\[0\]"),
        ([tr.LateCheck("a", bool), tr.LateCheck("a", bool)], r"validate_later\[1\]"),
    ],
)
def test_mistake_in_a_declaration_is_told(pipeline_of: Callable[[str], Pipeline], checks: Any, where: str) -> None:
    """What is no check, and two of one name."""
    log = pipeline_of("log")
    with pytest.raises(CompileError, match=where):
        tr.Pipeline(name="a", request=log.request, response=log.response, features=log.features, model=log.model,
                    budget=log.budget, validate_later=checks)  # fmt: skip
    with pytest.raises(ValueError, match="no name"):
        tr.LateCheck("", bool)
    with pytest.raises(TypeError, match="no function"):
        tr.LateCheck("a", 3)  # type: ignore[arg-type]


@pytest.mark.slow
def test_served_pipeline_is_checked_and_its_metrics_tell(file: Path, tmp_path: Path) -> None:
    """At a real server; when its worker is killed, the process goes with it, and the next one has its own."""
    server = start_serve(tmp_path / "log", file)
    try:
        server.wait_ready()
        assert server.ask("checked", {"iban": "broken"}).status == 200
        metric = "tailrace_late_checks_total"
        wait_for(lambda: server.metric(metric, 'outcome="broken"') == 1, "it is counted")
        before = set(server.processes())
        os.kill(server.workers()[0]["pid"], signal.SIGKILL)
        wait_for(lambda: server.workers()[0]["pid"] not in (0, *before), "there is another worker")
        wait_for(lambda: len(before & set(server.processes())) == 1, "the process of the first is gone")
        wait_for(lambda: server.ask("checked", {"iban": "broken"}).status == 200, "it answers")
        wait_for(lambda: server.metric(metric, 'outcome="broken"') == 2, "it is counted too")
    finally:
        server.end()
    assert not server.processes()
