"""`tailrace serve --log DIR --log-to URL`: sinks and forwarders that go and come back, beside a server that serves."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from serving import Server, serving, wait_for
from test_observer import FILE, LIMIT_S, ask, ids

from features.redis_server import RedisServer

pytestmark = pytest.mark.slow


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a pipeline whose score is a hundredth of what it is asked."""
    path = tmp_path / "ask.py"
    path.write_text(FILE)
    return path


def forwarder_of(server: Server) -> dict[str, Any]:
    """Return what the status says of the forwarder."""
    (found,) = (each for each in server.companions() if each["name"] == "forwarder")
    return found


def sent_to(port: int) -> list[str]:
    """Return the ids of the requests that are in the stream."""
    import redis

    with redis.Redis(port=port) as client:
        return [json.loads(fields[b"event"])["request_id"] for _, fields in client.xrange("log")]


def test_log_is_sent_on_whoever_is_gone_for_a_while(file: Path, tmp_path: Path, redis_server: RedisServer) -> None:
    """Redis, the forwarder, and the server: each call is answered, and each line comes."""
    log, port = tmp_path / "log", redis_server.port
    options = ("--log", str(log), "--log-to", f"redis://127.0.0.1:{port}/0?stream=log")
    with serving(tmp_path / "out", file, *options) as server:
        assert forwarder_of(server)["origin"] == f"redis://127.0.0.1:{port}/0?stream=log"
        ask(server, 0, 3)
        wait_for(lambda: set(sent_to(port)) == {"r0", "r1", "r2"}, LIMIT_S)
        assert server.metric("tailrace_log_sent_total") == 3
        redis_server.kill()
        ask(server, 3, 3)
        wait_for(lambda: server.events("the log waits for its sink"), LIMIT_S)
        assert server.metric("tailrace_log_waiting_bytes") > 0
        wait_for(lambda: server.metric("tailrace_predictions_logged_total") == 6, LIMIT_S)
        os.kill(forwarder_of(server)["pid"], signal.SIGKILL)
        ask(server, 6, 3)
        redis_server.start()
        wait_for(lambda: {f"r{number}" for number in range(3, 9)} <= set(sent_to(port)), 2 * LIMIT_S)
        ask(server, 9, 1)
    assert "r9" in sent_to(port)  # the forwarder ends after the observer, which has written its last line by then
    assert ids(log) == sorted(f"r{number}" for number in range(10))


def test_whole_files_come_to_a_bucket_when_the_server_ends(file: Path, tmp_path: Path) -> None:
    """The last draft, too: it becomes whole, and is put before the forwarder ends."""
    log, bucket = tmp_path / "log", tmp_path / "bucket"
    with serving(tmp_path / "out", file, "--log", str(log), "--log-to", f"file://{bucket}") as server:
        ask(server, 0, 5)
        wait_for(lambda: server.metric("tailrace_predictions_logged_total") == 5, LIMIT_S)
    assert ids(bucket) == ids(log) == [f"r{number}" for number in range(5)]
