"""`tailrace serve --ingest`: a broker's events are in the next request's features, whatever dies, each counted once."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from serving import Server, fetch, serving, start_serve, wait_for

from features.redis_server import RedisServer
from ingest.kafka_cluster import kafka, produce
from ingest.payments import BEGIN
from ingest.payments import counted as stored
from tailrace.errors import SetupError
from tailrace.ingest.origin import StreamOrigin, check_origins
from tailrace.ingest.routes import streams_of
from tailrace.server.options import ServeOptions

CUSTOMERS = 10
PASSWORD = "not-to-be-told"
LIMIT_S = 30.0
EXACT_S = 300.0
"""How much later than the first event requests ask: less than the lateness, so that they make none late."""


class Broker:
    """A Redis with a password, as one who adds events has it."""

    def __init__(self, folder: Path) -> None:
        self.server = RedisServer(folder, ("--requirepass", PASSWORD))
        self.server.start()
        self.client: Any = redis.Redis(port=self.server.port, password=PASSWORD)
        self.origin = f"payments=redis://:{PASSWORD}@127.0.0.1:{self.server.port}/0?stream=paid"

    def add(self, events: list[dict[str, Any]]) -> None:
        """Add events to the stream, all at once."""
        with self.client.pipeline(transaction=True) as adding:
            for event in events:
                adding.xadd("paid", {"event": json.dumps(event)})
            adding.execute()

    def pending(self) -> int:
        """Return how many entries are delivered and not acknowledged."""
        return int(self.client.xpending("paid", "tailrace")["pending"])

    def acknowledged(self) -> int:
        """Return how many entries are."""
        (group,) = self.client.xinfo_groups("paid")
        return int(group["entries-read"]) - int(group["pending"])


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    """Run a Redis of this test's own, beside the store."""
    (tmp_path / "redis").mkdir()
    broker = Broker(tmp_path / "redis")
    try:
        yield broker
    finally:
        broker.client.close()
        broker.server.kill()


def payment(number: int, *, seconds: float | None = None, customer: int | None = None) -> dict[str, Any]:
    """Return a payment; a thousand are of ten seconds."""
    moment = BEGIN + timedelta(seconds=number / 100 if seconds is None else seconds)
    customer = number % CUSTOMERS if customer is None else customer
    return {"transaction_id": number, "customer_id": customer, "terminal_id": number % 100, "amount": 1.0,
            "time": moment.isoformat()}  # fmt: skip


@contextmanager
def following(tmp_path: Path, pipelines_dir: Path, *options: str) -> Iterator[Server]:
    """Serve the pipeline on an embedded store of this test's own; afterwards no password is in the log."""
    store = f"lmdb:{tmp_path / 'store'}"
    with serving(tmp_path / "log", pipelines_dir / "activity.py", "--store", store, *options) as server:
        yield server
    assert PASSWORD not in (tmp_path / "log").read_text()


def consumer_of(server: Server) -> dict[str, Any]:
    """Return what /status says of the consumer."""
    (found,) = [each for each in server.companions() if each["name"] == "consumer"]
    return found


def counted(server: Server, number: int) -> int:
    """Return how many payments all customers have had, by asking for each. number: of the first request."""
    asked = [payment(number + each, seconds=EXACT_S, customer=each) for each in range(CUSTOMERS)]
    answers = [server.ask("activity", each) for each in asked]
    assert {answer.status for answer in answers} == {200}
    return sum(answer.body["count_30d"] for answer in answers)


def test_server_follows_a_broker_through_its_outage(broker: Broker, tmp_path: Path, pipelines_dir: Path) -> None:
    """What is added is in the next features; while the broker is gone requests are answered, and then it catches up."""
    with following(tmp_path, pipelines_dir, "--ingest", broker.origin) as server:
        shown = f"payments=redis://127.0.0.1:{broker.server.port}/0?stream=paid"
        assert consumer_of(server)["origin"] == shown
        broker.add([payment(number) for number in range(40)] + [{"secret": "no"}])
        wait_for(lambda: server.metric("tailrace_events_total", 'fate="counted"') == 40, LIMIT_S)
        assert counted(server, 1_000) == 40
        assert server.metric("tailrace_events_total", 'fate="poison"') == 1
        (told, *_) = server.events("an event cannot be read")
        assert re.fullmatch(r"redis://\S+ stream paid paid \d+-\d+: ValidationError", told["cause"])
        assert server.metric("tailrace_consumers", 'stream="payments"') == 1
        broker.server.kill()
        wait_for(lambda: len(server.events("consumer died")) == 2, LIMIT_S)
        assert counted(server, 2_000) == 40 + CUSTOMERS
        assert server.metric("tailrace_consumers", 'stream="payments"') == 0
        died = server.events("consumer died")[-1]
        assert (died["origin"], "Connection refused" in died["error"]) == (shown, True)
        broker.server.start()
        broker.add([payment(number) for number in range(20, 60)])  # half of them come again
        wait_for(lambda: server.metric("tailrace_events_total", 'fate="duplicate"') == 20, LIMIT_S)
        assert counted(server, 3_000) == 60 + 2 * CUSTOMERS
        wait_for(lambda: server.metric("tailrace_event_lag", 'stream="payments"') == 0, LIMIT_S)
        assert not server.events("worker died")


MANY = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.mark.parametrize("kills", [1, pytest.param(20, marks=MANY)])
def test_consumer_killed_beside_the_ingester_counts_each_event_once(
    kills: int, broker: Broker, tmp_path: Path, pipelines_dir: Path
) -> None:
    """Two processes write one embedded store, one of them is killed with entries delivered; at last both drain."""
    with following(tmp_path, pipelines_dir, "--ingest", broker.origin) as server, ThreadPoolExecutor(1) as thread:
        number = 0
        for kill in range(kills):
            wait_for(lambda: consumer_of(server)["state"] == "ready", LIMIT_S)
            pid = consumer_of(server)["pid"]
            own, others = range(number, number + 1_000), range(number + 1_000, number + 1_100)
            sending = thread.submit(send, server, others)
            broker.add([payment(each) for each in own])
            end_s = time.monotonic() + LIMIT_S
            while not broker.pending():
                assert time.monotonic() < end_s
            os.kill(pid, signal.SIGKILL)
            sending.result()
            number += 1_100
            assert server.ask("activity", payment(10_000_000 + kill, seconds=EXACT_S, customer=CUSTOMERS)).status == 200
        wait_for(lambda: broker.acknowledged() == 1_000 * kills, LIMIT_S)
        assert counted(server, 20_000_000) == number
        assert consumer_of(server)["restarts"] == kills
        broker.add([payment(each) for each in range(number, number + 3_000)])
        wait_for(lambda: broker.acknowledged() > 1_000 * kills, LIMIT_S)
        assert server.end() == 0
        assert broker.pending() == 0
        acknowledged = broker.acknowledged()
    customers = [stored(pipelines_dir, f"lmdb:{tmp_path / 'store'}", customer) for customer in range(CUSTOMERS)]
    assert sum(customers) == 100 * kills + acknowledged + CUSTOMERS


def send(server: Server, numbers: range) -> None:
    """Send payments over HTTP, ten in a call."""
    for begin in numbers[::10]:
        body = json.dumps([payment(number) for number in range(begin, begin + 10)]).encode()
        assert fetch(f"{server.url}/v1/streams/payments/events", body)[0] == 200


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_two_brokers_are_followed_by_a_process_each(broker: Broker, tmp_path: Path, pipelines_dir: Path) -> None:
    """Redis is gone from the start, and Kafka's labels are counted; Kafka goes too, and requests are answered."""
    broker.server.kill()
    with kafka("labels") as (process, brokers):
        options = ("--ingest", broker.origin, "--ingest", f"labels=kafka://{brokers}", "--ingest-group", "scores")
        log, store = tmp_path / "log", f"lmdb:{tmp_path / 'store'}"
        server = start_serve(log, pipelines_dir / "activity.py", "--store", store, *options)
        try:
            server.wait_ready()
            label = {"transaction_id": 1, "terminal_id": 7, "is_fraud": 1, "time": BEGIN.isoformat()}
            produce(process, [(0, json.dumps(label).encode())])
            wait_for(lambda: server.metric("tailrace_events_total", 'stream="labels"', 'fate="counted"') == 1, LIMIT_S)
            wait_for(lambda: server.events("consumer died"), LIMIT_S)
            assert {event["origin"].partition("=")[0] for event in server.events("consumer died")} == {"payments"}
            process.kill()
            wait_for(lambda: [each for each in server.events("consumer died") if "kafka" in each["origin"]], LIMIT_S)
            assert server.ask("activity", payment(1)).status == 200
        finally:
            assert server.end() == 0
    assert PASSWORD not in log.read_text()
    assert all(line.startswith("{") for line in log.read_text().splitlines())


def test_origin_of_no_stream_ends_the_server_at_its_start(tmp_path: Path, pipelines_dir: Path) -> None:
    """It is told what streams there are, before anything is served."""
    store = f"lmdb:{tmp_path / 'store'}"
    origin = f"visits=redis://:{PASSWORD}@127.0.0.1:1/0"
    server = start_serve(tmp_path / "log", pipelines_dir / "activity.py", "--store", store, "--ingest", origin)
    assert server.process.wait(LIMIT_S) == 1
    told = server.log.read_text()
    assert "no stream is called 'visits'" in told
    assert "name one with --ingest STREAM=URL: payments, labels" in told
    assert PASSWORD not in told
    assert not server.events("ready")


@pytest.mark.parametrize(
    ("origin", "what"),
    [
        ("history.parquet", "a file ends"),
        ("payments=history.parquet", "a file ends"),
        ("payments=http://127.0.0.1/events", "no events come from 'http'"),
        (f"redis://:{PASSWORD}@127.0.0.1:x/0", "not an address of Redis"),
        (f"redis://:{PASSWORD}@[::1/0", "not an address of a broker"),
        (f"redis://:{PASSWORD}@127.0.0.1/0?topic=paid", "an option 'topic' that is not known"),
        (f"redis://:{PASSWORD}?x@127.0.0.1/0", "not an address of Redis"),
        (f"redis://:x?{PASSWORD}=x@127.0.0.1/0", "an option that is not known"),
        (f"payments=redis:/:{PASSWORD}@127.0.0.1/0", "a file ends"),
        (f"kafka://user:{PASSWORD}?x@127.0.0.1:9092/paid", "without a password"),
        (f"kafka://user:{PASSWORD}@127.0.0.1:9092/paid", "without a password"),
        ("kafka:///paid", "'' is no broker"),
        ("kafka://one:9092,two:port/paid", "'two:port' is no broker"),
    ],
)
def test_origin_that_cannot_be_followed_is_refused_at_once(origin: str, what: str) -> None:
    """Before anything starts, and without its password."""
    with pytest.raises(SetupError, match=what) as raised:
        ServeOptions(files=("pipeline.py",), ingest=(origin,))
    assert PASSWORD not in str(raised.value)


def test_kafka_without_its_client_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told what to install."""
    monkeypatch.setattr("tailrace.ingest.origin.find_spec", lambda name: None)
    with pytest.raises(SetupError, match=r"pip install 'tailrace\[kafka\]'"):
        ServeOptions(files=("pipeline.py",), ingest=("kafka://127.0.0.1:9092/paid",))


@pytest.mark.parametrize(
    ("origins", "what"),
    [
        (["redis://127.0.0.1/0?stream=paid"], "there are 2 streams"),
        (["payments=redis://h/0", "payments=redis://h/0?stream=payments"], "shared out between two consumers"),
        (["payments=kafka://h/all", "labels=kafka://h/all"], "shared out between two consumers"),
    ],
)
def test_origins_that_do_not_fit_the_streams_are_refused(origins: list[str], what: str, pipeline_of: Any) -> None:
    """One that is of no one stream, and two that would each get a part of the other's events."""
    streams = streams_of([pipeline_of("activity")])
    with pytest.raises(SetupError, match=what):
        check_origins([StreamOrigin.parse(origin) for origin in origins], streams)
    check_origins([StreamOrigin.parse(origin) for origin in ("payments=redis://h/0", "labels=redis://h/0")], streams)
