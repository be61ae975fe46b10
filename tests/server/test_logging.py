"""Each line of a server's log can be read by what collects it, whoever wrote it."""

from __future__ import annotations

import json
import subprocess
import sys

PROGRAM = """
import warnings
from tailrace.server.logging import configure_logging, log_warnings, logger
configure_logging()
log_warnings()
warnings.warn("of\\nanother version", UserWarning)
logger(pid=1).info("ready")
"""


def test_what_a_library_warns_of_is_a_line_of_the_log() -> None:
    """In JSON as all others, with its kind, its text and where it comes from."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    warned, ready = map(json.loads, done.stderr.splitlines())
    assert (warned["level"], warned["kind"], warned["text"]) == ("warning", "UserWarning", "of\nanother version")
    assert warned["where"].startswith("<string>:")
    assert ready["event"] == "ready"
