"""Events over HTTP, and requests that are events: counted once, seen by the next request, whatever dies meanwhile."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest
from event_link import cut_link
from serving import Answer, Server, fetch, load, serving, wait_for

from features.redis_server import RedisServer

CALL, CUSTOMERS = 200, 100
AGE_S = 20 * 86_400
"""By how much the first event of many is older than now."""
NOW = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
HOLD = """
import lmdb, os, signal, sys
environment = lmdb.open(sys.argv[1], map_size=64 << 30, max_readers=1024)
with environment.begin(write=True):
    print("held", flush=True)
    signal.pause()
"""


def payment(number: int, customer: int = 7, *, seconds: float = 0.0, amount: float = 10.0) -> dict[str, Any]:
    """Return a payment, so many seconds after the first."""
    moment = (NOW + timedelta(seconds=seconds)).isoformat()
    return {"transaction_id": number, "customer_id": customer, "terminal_id": 1, "amount": amount, "time": moment}


def send(server: Server, *events: dict[str, Any], stream: str = "payments") -> Answer:
    """Send events in one call."""
    body = json.dumps(events[0] if len(events) == 1 else list(events)).encode()
    status, fields, answer = fetch(f"{server.url}/v1/streams/{stream}/events", body)
    return Answer(status, dict(fields), json.loads(answer))


def pid_of(server: Server) -> int:
    """Return the pid of the ingester."""
    children = json.loads(fetch(f"{server.admin}/status")[2])["companions"]
    return int(children[0]["pid"])


@contextmanager
def served(pipelines_dir: Path, tmp_path: Path, *options: str, store: str | None = None) -> Iterator[Server]:
    """Serve the pipeline with an empty store of this test's own."""
    store = store or f"lmdb:{tmp_path / 'store'}"
    with serving(tmp_path / "log", pipelines_dir / "activity.py", "--store", store, *options) as server:
        yield server


@pytest.fixture(params=["lmdb", "redis"])
def server(request: pytest.FixtureRequest, pipelines_dir: Path, tmp_path: Path) -> Iterator[Server]:
    """Serve on each kind of store, by two workers."""
    redis: RedisServer | None = request.getfixturevalue("redis_server") if request.param == "redis" else None
    with served(pipelines_dir, tmp_path, "--workers", "2", store=redis.url if redis else None) as server:
        yield server


def test_event_is_counted_by_the_next_request_and_once(server: Server) -> None:
    """What is answered 200 is seen at once, by each worker; an event that comes again is told as a duplicate."""
    assert send(server, payment(1, amount=20.5), payment(2, seconds=1)).body == {
        "counted": 2, "duplicates": 0, "refused": [],
    }  # fmt: skip
    assert send(server, payment(2, seconds=1)).body == {"counted": 0, "duplicates": 1, "refused": []}
    for number in range(8):  # over connections of their own: both workers are asked
        answer = server.ask("activity", payment(100 + number, 8, seconds=5))
        assert answer.status == 200
    answer = server.ask("activity", payment(50, seconds=5))
    assert (answer.body["count_5m"], answer.body["mean_5m"]) == (2, 15.25)


def test_request_is_an_event_of_its_stream(server: Server) -> None:
    """A scored request is counted for the very next one, never for itself; asked again, it is no second event."""
    counts = [server.ask("activity", payment(number, seconds=number)).body["count_1h"] for number in range(6)]
    again = [server.ask("activity", payment(3, seconds=3)).body["count_1h"] for _ in range(2)]
    assert counts == [0, 1, 2, 3, 4, 5]
    assert again == [3, 3]


def test_event_that_cannot_be_counted_is_told_why(server: Server) -> None:
    """Late, ahead of the clock, invalid: each is refused with its reason, and leaves the others alone."""
    assert send(server, *(payment(number, seconds=3_000 + number) for number in range(3))).status == 200
    mixed = send(server, payment(10, seconds=2_999), payment(11, seconds=0), payment(12, seconds=90_000))
    assert mixed.status == 200
    assert mixed.body["counted"] == 1
    assert [(each["at"], each["reason"][:5]) for each in mixed.body["refused"]] == [(1, "older"), (2, "its t")]
    late = send(server, payment(13, seconds=0))
    assert (late.status, late.body["detail"][:24]) == (422, "the event is not counted")
    invalid = send(server, payment(14) | {"amount": "much"})
    assert (invalid.status, invalid.body["pointer"]) == (422, "$.amount")
    keyless = {name: value for name, value in payment(15).items() if name != "customer_id"}
    mixed = send(server, payment(16, seconds=3_004), keyless)  # a call is taken whole or not at all
    assert (mixed.status, "customer_id" in mixed.body["detail"]) == (422, True)
    assert server.metric("tailrace_events_total", 'fate="late"') == 2
    assert server.metric("tailrace_events_total", 'fate="counted"') == 4


MANY = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.mark.parametrize("kills", [4, pytest.param(50, marks=MANY)])
def test_ingester_killed_amid_its_batches_loses_no_event_and_counts_none_twice(
    kills: int, pipelines_dir: Path, tmp_path: Path
) -> None:
    """Events are sent again until they are answered 200: the total is exact. Requests are answered all the while."""
    random = Random(kills)
    with served(pipelines_dir, tmp_path) as server, Sending(server) as sending:
        for kill in range(kills):
            answered = sending.answered
            wait_for(lambda answered=answered: sending.answered > answered + 2, 30)  # by this ingester
            sending.wait_sent()
            time.sleep(random.random() * 0.02)
            os.kill(pid_of(server), signal.SIGKILL)
            for number in range(5):
                asked = payment(10_000_000 + 5 * kill + number, 1_000, seconds=-AGE_S)  # it makes no event late
                answer = server.ask("activity", asked)
                assert answer.status == 200
        total = sending.stop()
        counts = [
            server.ask("activity", payment(20_000_000 + customer, customer)).body["count_30d"]
            for customer in range(CUSTOMERS)
        ]
        assert server.companions()[0]["restarts"] == kills
    assert sum(counts) == total
    assert sending.again >= kills


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_ingester_stopped_while_it_holds_the_write_lock_is_replaced(pipelines_dir: Path, tmp_path: Path) -> None:
    """Requests are answered all the while; the lock is free once the process is killed for its silence."""
    options = ("--frozen-s", "4", "--heartbeat-s", "0.5")
    with served(pipelines_dir, tmp_path, *options) as server, Sending(server) as sending:
        wait_for(lambda: sending.answered > 2, 30)
        pid = wait_for(lambda: stopped_in_a_write(server, tmp_path / "store"), 120)
        begin_s, number = time.monotonic(), 0
        while server.companions()[0]["pid"] == pid:
            asked = payment(10_000_000 + number, 1_000, seconds=-AGE_S)
            answer = server.ask("activity", asked, {"X-Trace": "1"})
            assert (answer.status, "event_lost" in answer.degraded) == (200, True)
            number += 1
            assert time.monotonic() < begin_s + 30
        answered = sending.answered
        wait_for(lambda: sending.answered > answered + 2, 30)
        total = sending.stop()
        counts = [
            server.ask("activity", payment(20_000_000 + customer, customer)).body["count_30d"]
            for customer in range(CUSTOMERS)
        ]
    assert number > 3
    assert sum(counts) == total


def stopped_in_a_write(server: Server, store: Path) -> int | None:
    """Stop the ingester; return its pid where that was within a transaction that writes, else let it go on."""
    pid = pid_of(server)
    os.kill(pid, signal.SIGSTOP)
    script = HOLD.replace("with environment", 'print("open", flush=True)\nwith environment')
    with subprocess.Popen([sys.executable, "-c", script, str(store)], stdout=subprocess.PIPE, bufsize=0) as other:
        assert other.stdout is not None
        try:
            assert other.stdout.readline() == b"open\n"
            is_free, _, _ = select.select([other.stdout], [], [], 1.0)
        finally:
            other.kill()
    if not is_free:
        return pid
    os.kill(pid, signal.SIGCONT)
    return None


class Sending:
    """A client that sends events of some customers, call by call, each until it is answered 200.

    answered: calls that were; again: how often one was not. Raises in `stop` what went wrong.
    """

    def __init__(self, server: Server) -> None:
        self.answered = self.again = 0
        self._server = server
        self._is_sent = threading.Event()
        self._is_stopping = threading.Event()
        self._pool = ThreadPoolExecutor(1)

    def __enter__(self) -> Sending:
        self._done = self._pool.submit(self._run)
        return self

    def __exit__(self, *_: object) -> None:
        self._is_stopping.set()
        self._pool.shutdown()

    def wait_sent(self) -> None:
        """Wait until the next call is about to be sent."""
        self._is_sent.clear()
        assert self._is_sent.wait(30)

    def stop(self) -> int:
        """End behind a call that is answered; return how many events were sent."""
        self._is_stopping.set()
        return self._done.result(60)

    def _run(self) -> int:
        number = 0
        while not self._is_stopping.is_set():
            events = [payment(each, each % CUSTOMERS, seconds=each - AGE_S) for each in range(number, number + CALL)]
            while True:
                self._is_sent.set()
                answer = send(self._server, *events)
                if answer.status == 200:
                    break
                assert answer.status in (500, 503, 504), answer.body
                self.again += 1
                time.sleep(0.02)
            assert answer.body["refused"] == []
            self.answered += 1
            number += CALL
            time.sleep(0.02)
        return number


def counted(server: Server, number: int) -> Answer | None:
    """Return the answer to a later payment, once it is not degraded."""
    answer = server.ask("activity", payment(number + 1, seconds=number), {"X-Trace": "1"})
    return answer if answer.status == 200 and not answer.degraded else None


def test_stopped_ingester_degrades_and_delays_no_answer(pipelines_dir: Path, tmp_path: Path) -> None:
    """While the ingester stands still, requests are answered in budget and say that they are not counted."""
    bodies = [json.dumps(payment(number, number, seconds=number)).encode() for number in range(200)]
    with served(pipelines_dir, tmp_path) as server:
        wait_for(lambda: counted(server, 1), 20)
        pid = pid_of(server)
        os.kill(pid, signal.SIGSTOP)
        try:
            with load(
                server.predict_url("activity"), bodies, rate=100, duration_s=2, budget_ms=500, keep_bodies=False
            ) as report:
                answer = server.ask("activity", payment(1_000, seconds=1), {"X-Trace": "1"})
                event = send(server, payment(1_001, seconds=1))
            assert answer.status == 200
            assert answer.degraded == {"event_lost"}
            assert event.status in (503, 504)
            assert report.result().statuses.keys() == {200}
        finally:
            os.kill(pid, signal.SIGCONT)
        wait_for(lambda: counted(server, 10), 20)


def test_stopped_holder_of_the_write_lock_harms_no_answer(pipelines_dir: Path, tmp_path: Path) -> None:
    """Another process holds LMDB's write lock: events are answered in time that they are not counted; then they are."""
    with served(pipelines_dir, tmp_path) as server:
        wait_for(lambda: counted(server, 1), 20)
        command = [sys.executable, "-c", HOLD, str(tmp_path / "store")]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
            try:
                assert holder.stdout is not None
                assert holder.stdout.readline() == b"held\n"
                answer = server.ask("activity", payment(1_000, seconds=1), {"X-Trace": "1"})
                event = send(server, payment(1_001, seconds=1))
            finally:
                holder.kill()
        assert answer.degraded == {"event_lost"}
        assert (event.status, event.body["title"]) == (504, "Deadline exceeded")
        wait_for(lambda: counted(server, 10), 20)


def test_link_that_is_cut_while_both_ends_live_is_made_again(pipelines_dir: Path, tmp_path: Path) -> None:
    """Worker and ingester stay the same processes; events are refused for some seconds at most, and then counted."""
    with served(pipelines_dir, tmp_path) as server:
        assert send(server, payment(1)).body["counted"] == 1
        worker, ingester = server.workers()[0]["pid"], pid_of(server)
        for number in (2, 3):
            cut_link(worker, ingester)
            wait_for(lambda number=number: send(server, payment(number, seconds=number)).status == 200, 5)
        assert (server.workers()[0]["pid"], pid_of(server)) == (worker, ingester)
        assert server.workers()[0]["restarts"] == server.companions()[0]["restarts"] == 0
        assert server.ask("activity", payment(9, seconds=9)).body["count_1h"] == 3


def test_server_without_streams_has_no_ingester(pipelines_dir: Path, tmp_path: Path) -> None:
    """A server of batch views alone starts no process more."""
    with serving(tmp_path / "log", pipelines_dir / "log.py") as server:
        assert json.loads(fetch(f"{server.admin}/status")[2])["companions"] == []
        assert len(server.processes()) == 2
