"""The server that the load generator's tests send to."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest


class RunningServer(NamedTuple):
    """A server process, and where it listens."""

    pid: int
    url: str


@pytest.fixture
def server() -> Iterator[RunningServer]:
    """Start tests/loadtest/answering_server.py in a process of its own, and end it."""
    script = Path(__file__).with_name("answering_server.py")
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield RunningServer(process.pid, f"http://127.0.0.1:{int(process.stdout.readline())}")
        finally:
            process.kill()
