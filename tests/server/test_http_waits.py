"""The time a call spends in its socket, behind the batch of another pipeline, is told and counts for its deadline."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from http_server import PATIENCE_S, RunningServer, ample, head_of, payment_of, post

import tailrace as tr
from tailrace.deadline import NS_PER_MS
from tailrace.pipeline import Pipeline

HELD_S = 0.1
OTHER = "/v1/pipelines/log_with_fallback/predict"


class Amount(tr.Request):
    amount: float
    label: str = ""


class Hold:
    """Where a feature function waits, when it is told to, and holds up the loop that runs it."""

    def __init__(self) -> None:
        self.is_on = False
        self.reached, self.go_on = threading.Event(), threading.Event()

    def wait(self) -> None:
        """Wait once, until the test goes on."""
        if self.is_on:
            self.is_on = False
            self.reached.set()
            assert self.go_on.wait(PATIENCE_S)


hold = Hold()


@tr.on_demand
def slow_amount(request: Amount) -> np.ndarray[Any, Any]:
    """Return the amount, at once or not."""
    hold.wait()
    return request.amount


@pytest.fixture
def server(pipeline_of: Callable[[str], Pipeline]) -> Iterator[RunningServer]:
    """Serve two pipelines on one loop, of which one can be held up."""
    global hold  # noqa: PLW0603 - the pipeline's function is at the top of the file, as the user's are
    hold = Hold()
    slow = replace(pipeline_of("log"), request=Amount, features=[replace(slow_amount, name="amount")])
    with RunningServer([ample(slow), ample(pipeline_of("log_with_fallback"))]) as server:
        yield server


def seconds_of(server: RunningServer, name: str, pipeline: str) -> tuple[int, float]:
    """Return how many times a histogram has counted, and their sum."""
    series = server.block.find(name, pipeline)
    *counts, sum_ns = server.block.cells[series.offset : series.offset + series.length]
    return sum(counts), sum_ns / 1e9


def send_behind(server: RunningServer, *requests: bytes) -> tuple[list[Any], float]:
    """Send requests while the loop is held; return their answers, and for how long they were in their sockets.

    Their connections are there before: what comes with a new one, which is accepted in a turn after, is dated by that.
    """
    clients = [server.connect() for _ in requests]
    with server.connect() as first:
        for client in clients:
            assert client.ask(head_of()).status == 200
        hold.is_on = True
        first.send(post(payment_of()))
        assert hold.reached.wait(PATIENCE_S)
        for client, request in zip(clients, requests, strict=True):
            client.send(request)
        sent_s = time.monotonic()
        time.sleep(HELD_S)  # what is told is the time of the machine's clock
        held_s = time.monotonic() - sent_s
        hold.go_on.set()
        answers = [client.read() for client in clients]
        assert first.read().status == 200
        for client in clients:
            client.sock.close()
    server.settle()
    return answers, held_s


def test_time_behind_another_pipelines_batch_is_told(server: RunningServer) -> None:
    """The histograms of the one pipeline hold what its call waited for the other's function, whole and as a wait."""
    (answer,), held_s = send_behind(server, post(payment_of(2.0, "behind"), "X-Trace: 1", path=OTHER))
    assert answer.json["label"] == "behind"
    for name in ("tailrace_request_seconds", "tailrace_queue_wait_seconds"):
        count, sum_s = seconds_of(server, name, "log_with_fallback")
        assert count == 1
        assert sum_s >= 0.95 * held_s
    queue_ms = float(answer.headers["server-timing"].partition("queue;dur=")[2].partition(",")[0])
    assert queue_ms >= 950 * held_s
    with server.connect() as client:  # and what comes later has not waited
        assert client.ask(post(payment_of(), path=OTHER)).status == 200
    server.settle()
    assert seconds_of(server, "tailrace_queue_wait_seconds", "log_with_fallback")[1] - sum_s < 0.5 * HELD_S


def test_deadline_counts_from_before_the_wait(server: RunningServer) -> None:
    """Who asks for less time than the wait took is refused, and counted so; who has more is served."""
    budgets_ms = (HELD_S * 500, HELD_S * 900, 10_000)
    requests = [post(payment_of(), f"X-Budget-Ms: {budget_ms}", path=OTHER) for budget_ms in budgets_ms]
    answers, held_s = send_behind(server, *requests)
    assert held_s * 1_000 > budgets_ms[1]
    assert [answer.status for answer in answers] == [503, 503, 200]
    assert answers[0].problem()["title"] == "Shed"
    assert server.count("tailrace_shed_total", "log_with_fallback", "deadline") == 2
    assert server.engines["log_with_fallback"].admission.rows_waiting == 0
    with server.connect() as client:  # as much time is enough where there was no wait
        assert client.ask(requests[1]).status == 200
    assert server.engines["log"].budget_ns > HELD_S * 1_000 * NS_PER_MS
