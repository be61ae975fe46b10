"""Triton's public client calls our server, over HTTP and gRPC, from threads and from an event loop."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from http_server import RunningServer, ample

from inference.real_servers import server_venv
from tailrace.pipeline import Pipeline

pytest.importorskip("grpc_health")

from oip_grpc_server import oip_over_grpc

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

CALLER = Path(__file__).with_name("triton_caller.py")
PATIENCE_S = 60.0
ROWS = {"score": [0.0, 1.386294], "decision": ["low", "high"], "label": ["a", "ü"]}


@pytest.fixture(scope="module")
def told(pipeline_of: Callable[[str], Pipeline]) -> dict[str, Any]:
    """Return what the client is told by a server of the pipeline `log`."""
    python = server_venv("tritonclient") / "python"
    with RunningServer([ample(pipeline_of("log"))]) as server, oip_over_grpc(server) as over_grpc:
        host, port = server.address
        done = subprocess.run(
            [python, CALLER, f"{host}:{port}", over_grpc], capture_output=True, text=True, timeout=PATIENCE_S,
            check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def same(rows: dict[str, Any], names: tuple[str, ...] = ("score", "decision", "label")) -> bool:
    """Say whether rows are those that were asked for, of some outputs."""
    assert set(rows) == set(names)
    return all(rows[name] == (pytest.approx(ROWS[name], abs=1e-6) if name == "score" else ROWS[name]) for name in names)


@pytest.mark.parametrize("over", ["http", "grpc"])
def test_client_is_told_what_there_is(told: dict[str, Any], over: str) -> None:
    """Health, readiness and metadata."""
    found = told[over]
    assert found["live"] == [True, True, True]
    assert not found["absent"]
    assert (found["server"], found["names"]) == ("tailrace", ["amount", "label"])


@pytest.mark.parametrize(("over", "way"), [("http", "bytes"), ("http", "json"), ("http", "gzip"), ("grpc", "bytes")])
def test_client_is_answered(told: dict[str, Any], over: str, way: str) -> None:
    """In bytes, in JSON, and compressed: the same rows."""
    assert same(told[over][way])


@pytest.mark.parametrize("over", ["http", "grpc"])
def test_client_chooses_outputs(told: dict[str, Any], over: str) -> None:
    """Two by name, over HTTP one in JSON and one in bytes; its id comes back."""
    assert same(told[over]["mixed"], ("score", "label"))
    assert told[over]["id"] == "8"


@pytest.mark.parametrize("over", ["http", "grpc"])
def test_client_asks_many_at_once(told: dict[str, Any], over: str) -> None:
    """Calls from its pool of threads, and from an event loop, are each answered."""
    found = [*told[over]["async"], *told[f"{over}_aio"]["rows"]]
    assert len(found) == 16
    assert all(map(same, found))


@pytest.mark.parametrize(
    ("fault", "status", "code", "words"),
    [
        ("unknown", "404", "NOT_FOUND", "no such"),
        ("missing", "400", "INVALID_ARGUMENT", "'amount' is missing"),
        ("sequence", "400", "INVALID_ARGUMENT", "sequence"),
        ("classes", "400", "INVALID_ARGUMENT", "classes"),
        ("config", "404", "UNIMPLEMENTED", "no such"),
        ("shed", "503", "UNAVAILABLE", "budget"),
    ],
)
def test_client_reads_errors(told: dict[str, Any], fault: str, status: str, code: str, words: str) -> None:
    """An error comes to its caller with the status and the reason."""
    for over, expected in (("http", status), ("grpc", f"StatusCode.{code}")):
        found, message = told[over][fault]
        assert found == expected
        assert words in message
