"""Triton's public client calls our server, over HTTP, from threads and from an event loop."""

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

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

CALLER = Path(__file__).with_name("triton_caller.py")
PATIENCE_S = 60.0
ROWS = {"score": [0.0, 1.386294], "decision": ["low", "high"], "label": ["a", "ü"]}


@pytest.fixture(scope="module")
def told(pipeline_of: Callable[[str], Pipeline]) -> dict[str, Any]:
    """Return what the client is told by a server of the pipeline `log`."""
    python = server_venv("tritonclient") / "python"
    with RunningServer([ample(pipeline_of("log"))]) as server:
        host, port = server.address
        done = subprocess.run(
            [python, CALLER, f"{host}:{port}"], capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def same(rows: dict[str, Any], names: tuple[str, ...] = ("score", "decision", "label")) -> bool:
    """Say whether rows are those that were asked for, of some outputs."""
    assert set(rows) == set(names)
    return all(rows[name] == (pytest.approx(ROWS[name], abs=1e-6) if name == "score" else ROWS[name]) for name in names)


def test_client_is_told_what_there_is(told: dict[str, Any]) -> None:
    """Health, readiness and metadata."""
    found = told["http"]
    assert found["live"] == [True, True, True]
    assert not found["absent"]
    assert (found["server"], found["names"]) == ("tailrace", ["amount", "label"])


@pytest.mark.parametrize("way", ["bytes", "json", "gzip"])
def test_client_is_answered(told: dict[str, Any], way: str) -> None:
    """In bytes, in JSON, and compressed: the same rows."""
    assert same(told["http"][way])


def test_client_chooses_outputs(told: dict[str, Any]) -> None:
    """Two by name, one in JSON and one in bytes; its id comes back."""
    assert same(told["http"]["mixed"], ("score", "label"))
    assert told["http"]["id"] == "8"


def test_client_asks_many_at_once(told: dict[str, Any]) -> None:
    """Calls from its pool of threads, and from an event loop, are each answered."""
    assert len(told["http"]["async"]) == len(told["http_aio"]["rows"]) == 8
    assert all(map(same, told["http"]["async"]))
    assert all(map(same, told["http_aio"]["rows"]))


@pytest.mark.parametrize(
    ("fault", "status", "words"),
    [
        ("unknown", "404", "no such path"), ("missing", "400", "'amount' is missing"), ("sequence", "400", "sequence"),
        ("classes", "400", "classes"), ("config", "404", "no such path"), ("shed", "503", "budget"),
    ],
)  # fmt: skip
def test_client_reads_errors(told: dict[str, Any], fault: str, status: str, words: str) -> None:
    """An error comes to its caller with the status and the reason."""
    found_status, message = told["http"][fault]
    assert found_status == status
    assert words in message
