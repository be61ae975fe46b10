"""The demonstration leaves no process, even of a server that does not end."""

from __future__ import annotations

import subprocess
import sys
import time

from demo import children_of, end, start_of

STUBBORN = """\
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print("ready", flush=True)
time.sleep(600)
"""


def test_end_leaves_no_worker() -> None:
    """A server that does not end when asked is killed, and so are its workers, each in a session of its own."""
    with subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        (worker,) = children_of(process.pid)
        end(process, 0.2)
        end_s = time.monotonic() + 20
        while start_of(worker):
            assert time.monotonic() < end_s, "a worker is left"
            time.sleep(0.01)
