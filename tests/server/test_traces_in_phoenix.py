"""What is exported is what a tracing backend of others shows: Phoenix, with a database, in a venv of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import fetch, serving, wait_for
from test_observed_traces import ASKED, LIMIT_S, ROUTE, TRACE, file_of

INSTALL_S_MAX = 300.0
START_S_MAX = 90.0
PHOENIX = "arize-phoenix>=20,<21"
QUERY = """
{projects{edges{node{spans(first:500){edges{node{name parentId statusCode attributes context{traceId spanId}}}}}}}}
"""


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture(scope="module")
def phoenix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the address of a Phoenix that runs, or skip where it cannot be installed."""
    if importlib.util.find_spec("uv") is None:
        pytest.skip("uv is not installed: it makes the venv that Phoenix lives in")
    folder = tmp_path_factory.mktemp("phoenix")
    uv, venv = [sys.executable, "-m", "uv", "--quiet"], folder / "venv"
    try:
        for command in (["venv", "--python", sys.executable, str(venv)],
                        ["pip", "install", "--python", str(venv / "bin" / "python"), PHOENIX]):  # fmt: skip
            subprocess.run([*uv, *command], check=True, timeout=INSTALL_S_MAX, capture_output=True)
    except subprocess.SubprocessError as error:
        pytest.skip(f"Phoenix cannot be installed here: {error}")
    port = free_port()
    settings = {
        "PHOENIX_WORKING_DIR": str(folder), "PHOENIX_HOST": "127.0.0.1", "PHOENIX_PORT": str(port),
        "PHOENIX_GRPC_PORT": str(free_port()), "PHOENIX_TELEMETRY_ENABLED": "false",
    }  # fmt: skip
    with (folder / "out").open("wb") as out:
        process = subprocess.Popen(
            [venv / "bin" / "phoenix", "serve"], env=os.environ | settings, stdout=out, stderr=out
        )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(lambda: is_up(url), START_S_MAX)
        yield url
    finally:
        process.kill()
        process.wait()


def is_up(url: str) -> bool:
    """Return whether it answers."""
    try:
        return fetch(f"{url}/healthz")[0] == 200
    except OSError:
        return False


def spans_in(url: str) -> list[dict[str, Any]]:
    """Return all spans that it has."""
    body, headers = json.dumps({"query": QUERY}).encode(), {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(f"{url}/graphql", body, headers), timeout=LIMIT_S) as answer:
        projects = json.loads(answer.read())["data"]["projects"]["edges"]
    return [span["node"] for project in projects for span in project["node"]["spans"]["edges"]]


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_backend_shows_the_request_with_its_layers(phoenix: str, tmp_path: Path) -> None:
    """Each call, below its caller's span, with all parts and what is known of it."""
    with serving(tmp_path / "out", file_of(tmp_path / "a"), "--traces", phoenix, "--trace-sample", "1") as server:
        for place in range(10):
            assert server.ask("ask", {"amount": 1}, {"X-Request-Id": f"r{place}"}).status == 200
        assert server.ask("ask", {"amount": 1}, ASKED | {"X-Request-Id": "told"}).status == 200
        wait_for(lambda: len(spans_in(phoenix)) >= 11 * 7, LIMIT_S)
    found = [span for span in spans_in(phoenix) if span["context"]["traceId"] == TRACE]
    (own,) = (span for span in found if span["name"] == ROUTE)
    assert own["parentId"] == "00f067aa0ba902b7"
    told = json.loads(own["attributes"])
    assert (told["tailrace"]["request_id"], told["http"]["response"]["status_code"]) == ("told", 200)
    parts = {span["name"] for span in found if span["parentId"] == own["context"]["spanId"]}
    assert parts == {"queue", "request", "features", "inference", "postprocess", "response"}
