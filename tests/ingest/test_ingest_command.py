"""`tailrace ingest`: files, a Redis stream, a Kafka topic; killed at any time, each event is counted once."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis
from kafka_cluster import kafka, produce
from payments import BEGIN, counted, ingest, ingesting, lines, payment

from features.redis_server import RedisServer

EVENTS = 300
LIMIT_S = 60.0
HOLD = """
import lmdb, signal, sys
environment = lmdb.open(sys.argv[1], map_size=64 << 30, max_readers=1024)
with environment.begin(write=True):
    print("held", flush=True)
    signal.pause()
"""


@pytest.fixture
def store(tmp_path: Path) -> str:
    """Return an embedded store of this test's own, yet to be made."""
    return f"lmdb:{tmp_path / 'store'}"


def write_parquet(path: Path, numbers: range) -> Path:
    """Write payments to a Parquet file."""
    rows = [{**payment(number), "time": BEGIN.timestamp() + number} for number in numbers]
    table = pa.Table.from_pylist(rows)
    times = pa.array([round(each * 1e6) for each in table["time"].to_pylist()], pa.timestamp("us"))
    pq.write_table(table.set_column(table.schema.get_field_index("time"), "time", times), path)
    return path


def test_file_is_counted_once_however_often_it_is_read(pipelines_dir: Path, tmp_path: Path, store: str) -> None:
    """Parquet and JSON Lines of the same events: the second is all duplicates, and the exit code says success."""
    parquet = write_parquet(tmp_path / "events.parquet", range(EVENTS))
    first = ingest(pipelines_dir, store, str(parquet))
    assert (first["counted"], first["code"]) == (EVENTS, 0)
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"\n".join([*lines(range(EVENTS)), b"{broken", b""]))
    second = ingest(pipelines_dir, store, str(path))
    assert (second["counted"], second["duplicate"], second["poison"], second["code"]) == (0, EVENTS, 1, 0)
    assert counted(pipelines_dir, store) == EVENTS


def test_file_of_which_nothing_is_counted_exits_1(pipelines_dir: Path, tmp_path: Path, store: str) -> None:
    """Success is not told where all events are ahead of the clock."""
    path = tmp_path / "events.jsonl"
    path.write_bytes(json.dumps(payment(1) | {"time": "2099-01-01T00:00:00Z"}).encode())
    report = ingest(pipelines_dir, store, str(path))
    assert (report["counted"], report["future"], report["code"]) == (0, 1, 1)


@pytest.mark.slow
@pytest.mark.parametrize("dies", ["before it counts", "before it acknowledges"])
def test_redis_stream_is_counted_once_through_kills(
    dies: str, pipelines_dir: Path, tmp_path: Path, store: str, redis_server: RedisServer
) -> None:
    """A consumer is killed with all entries delivered, poison among them: the total is exact, and nothing stops."""
    client = redis.Redis.from_url(redis_server.url)
    origin = f"{redis_server.url}?stream=payments"
    add(client, range(EVENTS))
    assert ingest(pipelines_dir, store, origin, "--until-idle")["counted"] == EVENTS
    with ingesting(pipelines_dir, store, origin) as process:
        wait_for(lambda: len(client.xinfo_consumers("payments", "tailrace")) == 2)
        with held(tmp_path / "store"):
            add(client, range(EVENTS, 2 * EVENTS))
            wait_for(lambda: pending(client) == EVENTS + 1)
            if dies == "before it counts":
                kill(process)
            else:
                client.client_pause(round(LIMIT_S * 1_000), all=False)  # what writes: acknowledgements
        if dies == "before it acknowledges":
            wait_for(lambda: counted(pipelines_dir, store) == 2 * EVENTS)
            kill(process)
            wait_for(lambda: len(client.client_list()) == 1)
            client.client_unpause()
    assert pending(client) == EVENTS + 1
    report = ingest(pipelines_dir, store, origin, "--until-idle")
    fates = (EVENTS, 0) if dies == "before it counts" else (0, EVENTS)
    assert (report["counted"], report["duplicate"], report["poison"], report["code"]) == (*fates, 1, 0)
    assert (counted(pipelines_dir, store), pending(client)) == (2 * EVENTS, 0)
    client.close()


def add(client: Any, numbers: range) -> None:
    """Add payments and one poison to the stream, all at once."""
    with client.pipeline(transaction=True) as adding:
        for event in [*lines(numbers), b"poison"]:
            adding.xadd("payments", {"event": event})
        adding.execute()


def pending(client: Any) -> int:
    """Return how many entries are delivered and not acknowledged."""
    return int(client.xpending("payments", "tailrace")["pending"])


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process that runs, and wait until it is gone."""
    assert process.poll() is None
    process.kill()
    process.wait()


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold the write lock of an embedded store: nothing is counted meanwhile."""
    with subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"held\n"
            yield
        finally:
            holder.kill()


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until a condition is true."""
    end_s = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.05)


def test_stopped_consumer_has_acknowledged_what_it_tells(
    pipelines_dir: Path, store: str, redis_server: RedisServer
) -> None:
    """SIGTERM ends a run with its report; nothing that it counted is pending."""
    client = redis.Redis.from_url(redis_server.url)
    for event in lines(range(EVENTS)):
        client.xadd("payments", {"event": event})
    with ingesting(pipelines_dir, store, f"{redis_server.url}?stream=payments") as process:
        end_s = time.monotonic() + 30
        while (
            not client.exists("payments")
            or client.xinfo_groups("payments")[0:1] == []
            or (client.xinfo_groups("payments")[0]["entries-read"] != EVENTS)
        ):
            assert time.monotonic() < end_s
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=30)
    assert json.loads(out)["counted"] == EVENTS
    assert client.xpending("payments", "tailrace")["pending"] == 0
    client.close()


def by_turns(numbers: range) -> list[tuple[int, bytes]]:
    """Return payments for two partitions, one for each in turn."""
    return [(number % 2, event) for number, event in zip(numbers, lines(numbers), strict=True)]


@pytest.mark.slow
def test_kafka_topic_is_counted_once_through_kills(pipelines_dir: Path, tmp_path: Path, store: str) -> None:
    """A consumer that read some is killed before it counts the others: offsets follow what is counted."""
    with kafka("payments") as (process, brokers):
        origin = f"kafka://{brokers}/payments"
        produce(process, by_turns(range(EVENTS)))
        with ingesting(pipelines_dir, store, origin) as consumer:
            wait_for(lambda: counted(pipelines_dir, store) == EVENTS)
            with held(tmp_path / "store"):
                produce(process, by_turns(range(EVENTS, 2 * EVENTS)))
                time.sleep(1)  # to be given them: a second longer than that takes
                kill(consumer)
        assert counted(pipelines_dir, store) == EVENTS
        report = ingest(pipelines_dir, store, origin, "--until-idle")
        assert (report["counted"], report["code"]) == (EVENTS, 0)
        assert counted(pipelines_dir, store) == 2 * EVENTS


def test_partition_that_is_behind_loses_nothing_to_one_that_is_ahead(pipelines_dir: Path, store: str) -> None:
    """A day of each of two partitions is caught up, one after the other: no event of the second is late."""
    with kafka("payments") as (process, brokers):
        for partition in (0, 1):
            events = lines(range(partition, 2 * EVENTS * 100, 200))
            assert len(events) == EVENTS
            produce(process, [(partition, event) for event in events])
        report = ingest(pipelines_dir, store, f"kafka://{brokers}/payments", "--until-idle")
    assert (report["counted"], report["late"]) == (2 * EVENTS, 0)
    assert counted(pipelines_dir, store) == 2 * EVENTS
