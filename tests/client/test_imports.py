"""What a process that only calls has to load."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("numpy", "onnxruntime", "uvloop", "structlog", "typer", "tailrace.server", "tailrace.engine", "tailrace.api")


def test_client_loads_nothing_of_the_server() -> None:
    """`from tailrace.client import Client` loads neither the server nor the libraries that serving needs."""
    code = f"import sys, tailrace.client; print([each for each in {HEAVY} if each in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
