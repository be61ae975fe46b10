"""Faults of ours in the last steps: no call waits for ever, nothing stays counted, and the log says it once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from http_server import RunningServer, ample, assert_serves, payment_of, post
from structlog.testing import capture_logs

import tailrace as tr
from tailrace.deadline import NS_PER_S
from tailrace.errors import ServerError, ServingError
from tailrace.pipeline import Pipeline

PipelineOf = Callable[[str], Pipeline]


class Later:
    """Says a time ahead of the monotonic one by `by_s`."""

    def __init__(self) -> None:
        self.by_s = 0

    def monotonic_ns(self) -> int:
        """Return it."""
        return time.monotonic_ns() + self.by_s * NS_PER_S


@pytest.fixture
def sweeps_later(monkeypatch: pytest.MonkeyPatch) -> Later:
    """Let the sweep look at a clock that can be put forward."""
    later = Later()
    monkeypatch.setattr("tailrace.server.http.server.time", SimpleNamespace(monotonic_ns=later.monotonic_ns))
    return later


@pytest.fixture
def server(pipeline_of: PipelineOf) -> Iterator[RunningServer]:
    """Serve one small pipeline."""
    with RunningServer([ample(pipeline_of("log"))]) as server:
        yield server


def once_raising(target: Any, name: str, monkeypatch: pytest.MonkeyPatch, *, before: bool = True) -> list[int]:
    """Let a method raise the first time it is called, instead of its work or after it; return the calls of it."""
    whole, calls = getattr(target, name), []

    def act(*arguments: Any, **others: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            if not before:
                whole(*arguments, **others)
            raise RuntimeError("a fault of ours")
        return whole(*arguments, **others)

    monkeypatch.setattr(target, name, act)
    return calls


def assert_nothing_counted(server: RunningServer) -> None:
    """Assert that no call counts as waiting or as under way, on the engine and on the loop."""
    engine = server.engines["log"]
    counted = engine.calls_waiting, engine.admission.rows_waiting, server.load.rows, engine._batches_running
    assert server.on_loop(lambda: counted) == (0, 0, 0, 0)


def test_call_whose_answer_a_fault_loses_is_answered_by_the_sweep(
    server: RunningServer, sweeps_later: Later, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transport that raises leaves its calls 500 and a closed connection within a second; others are served on."""
    once_raising(server.http, "deliver", monkeypatch)
    with server.connect() as client, capture_logs() as lines:
        client.send(post(payment_of(label="lost")) * 3)
        server.settle()
        assert_serves(server)  # the engine goes on
        assert_nothing_counted(server)
        server.sweep(2)
        assert client.is_silent()  # it may yet come, as far as the sweep knows
        client.send(post(payment_of(label="behind")))
        server.settle()
        sweeps_later.by_s = 22  # past the deadline, and the second after it
        server.sweep()
        answers = [client.read() for _ in range(4)]
        assert [answer.status for answer in answers] == [500, 500, 500, 200]
        assert "lost" in answers[0].problem()["detail"]
        assert answers[3].json["label"] == "behind"
        client.assert_closed()
        assert_serves(server)
        assert_nothing_counted(server)
    assert [line["event"] for line in lines if line["log_level"] == "error"] == ["answers were not delivered"]
    assert (lines[0]["calls"], lines[0]["pipeline"]) == (3, "log")


@pytest.mark.parametrize("before", [True, False], ids=["instead", "after"])
def test_recorder_that_raises_costs_no_call_its_answer(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch, *, before: bool
) -> None:
    """A batch that cannot be counted is answered, and the next one is counted; the log has one line."""
    (recorder,) = server.engines["log"]._recorders
    once_raising(recorder, "record", monkeypatch, before=before)
    counted = server.count("tailrace_requests_total", "log", "200", "")
    with server.connect() as client, capture_logs() as lines:
        assert [client.ask(post(payment_of())).status for _ in range(3)] == [200] * 3
        server.settle()
        assert_nothing_counted(server)
    assert [(line["event"], line["calls"]) for line in lines] == [("a batch was not recorded", 1)]
    assert server.count("tailrace_requests_total", "log", "200", "") == counted + (2 if before else 3)


class ClientWentAwayError(ServingError):
    """A user's own refusal, with a code that has no phrase."""

    status: ClassVar[int] = 499
    title = "Client closed request"


class NetworkError(ServerError):
    """Another one."""

    status: ClassVar[int] = 599
    title = "Network read timeout"


class Choosy(tr.Request):
    """A request that refuses itself."""

    amount: float
    label: str = ""

    def __post_init__(self) -> None:
        """Refuse what has an amount of 499, or of 599."""
        if self.amount in (499, 599):
            kind = ClientWentAwayError if self.amount == 499 else NetworkError
            raise kind("not this amount", next="send another")


@pytest.mark.parametrize("status", [499, 599])
def test_error_of_the_users_own_status_is_answered_and_counted(pipeline_of: PipelineOf, status: int) -> None:
    """A status that HTTP has no phrase for is sent as it is; it counts for the nearest kind that the metrics know."""
    choosy = ample(replace(pipeline_of("log"), request=Choosy, features=[Choosy.amount]))
    with RunningServer([choosy]) as server, server.connect() as client:
        for times in range(1, 4):  # through the parser, then by its head, then pipelined
            request = post(payment_of(float(status), "b"))
            answers = [client.ask(request)] if times < 3 else [client.send(request * 2).read(), client.read()]
            for answer in answers:
                assert answer.status == status
                assert answer.problem()["next"] == "send another"
            assert client.ask(post(payment_of(2.0, "good"))).json["label"] == "good"
        assert server.counts("tailrace_errors_total", "log") == {"internal-error": 4}
        assert server.counts("tailrace_requests_total", "log") == {"200": 3, "500": 4}
        assert_nothing_counted(server)
