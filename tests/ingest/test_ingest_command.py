"""`tailrace ingest`: files, a Redis stream, a Kafka topic; killed at any time, each event is counted once."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis
from payments import BEGIN, counted, ingest, ingesting, lines, payment

from features.redis_server import RedisServer

EVENTS = 300


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


def test_redis_stream_is_counted_once_through_kills(pipelines_dir: Path, store: str, redis_server: RedisServer) -> None:
    """Consumers are killed in the middle, poison among the events: the total is exact, and nothing stops."""
    client = redis.Redis.from_url(redis_server.url)
    origin = f"{redis_server.url}?stream=payments"
    total = 0
    for turn in range(3):
        for event in [*lines(range(total, total + EVENTS)), b"poison"]:
            client.xadd("payments", {"event": event})
        total += EVENTS
        with ingesting(pipelines_dir, store, origin) as process:
            time.sleep(0.8 + 0.1 * turn)  # somewhere between its start and its end
            process.kill()
    report = ingest(pipelines_dir, store, origin, "--until-idle")
    while client.xpending("payments", "tailrace")["pending"]:  # of the killed, taken over after a while
        report = ingest(pipelines_dir, store, origin, "--until-idle")
        time.sleep(1)
    assert report["code"] == 0
    assert counted(pipelines_dir, store) == total
    client.close()


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


@contextmanager
def kafka(topic: str) -> Iterator[Any]:
    """Run a cluster; give its process and its brokers."""
    pytest.importorskip("confluent_kafka")
    command = [sys.executable, str(Path(__file__).with_name("mock_kafka.py")), topic]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().decode().strip()
        finally:
            process.kill()


def produce(process: Any, numbers: range) -> None:
    """Send payments to two partitions, and wait until they are there."""
    for number, event in zip(numbers, lines(numbers), strict=True):
        process.stdin.write(b"%d %b\n" % (number % 2, event))
    process.stdin.write(b"flush\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"flushed\n"


def test_kafka_topic_is_counted_once_through_kills(pipelines_dir: Path, store: str) -> None:
    """Consumers of one group are killed in the middle: offsets follow what is counted, and the total is exact."""
    with kafka("payments") as (process, brokers):
        origin = f"kafka://{brokers}/payments"
        produce(process, range(EVENTS))
        with ingesting(pipelines_dir, store, origin) as consumer:
            time.sleep(2)
            consumer.kill()
        produce(process, range(EVENTS, 2 * EVENTS))
        end_s = time.monotonic() + 60
        with ingesting(pipelines_dir, store, origin):
            while counted(pipelines_dir, store) < 2 * EVENTS:
                assert time.monotonic() < end_s
                time.sleep(0.5)
        assert counted(pipelines_dir, store) == 2 * EVENTS


def test_partition_that_is_behind_loses_nothing_to_one_that_is_ahead(pipelines_dir: Path, store: str) -> None:
    """A day of each of two partitions is caught up, one after the other: no event of the second is late."""
    with kafka("payments") as (process, brokers):
        for partition in (0, 1):
            for number, event in enumerate(lines(range(partition, 2 * EVENTS * 100, 200))):
                process.stdin.write(b"%d %b\n" % (partition, event))
                assert number < EVENTS
        produce(process, range(0))
        report = ingest(pipelines_dir, store, f"kafka://{brokers}/payments", "--until-idle")
    assert (report["counted"], report["late"]) == (2 * EVENTS, 0)
    assert counted(pipelines_dir, store) == 2 * EVENTS
