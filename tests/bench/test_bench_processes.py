"""What a benchmark starts is gone when it ends, whatever session it made for itself."""

from __future__ import annotations

import os
import sys
import time
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

from processes import end, start, start_of

STUBBORN = """\
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print("ready", flush=True)
time.sleep(600)
"""


def test_end_leaves_no_descendant(tmp_path: Path) -> None:
    """A server that does not end when asked is killed, and so are its workers, each in a session of its own."""
    log = tmp_path / "log"
    with ExitStack() as stack:
        process = start(stack, "stubborn", [sys.executable, "-c", STUBBORN], log, cores=os.sched_getaffinity(0))
        end_s = time.monotonic() + 20
        while "ready" not in log.read_text():
            assert time.monotonic() < end_s
            time.sleep(0.01)
        (worker,) = {pid for pid in process.tree() if pid != process.popen.pid}
        end(process, 0.2)
        while start_of(worker):
            assert time.monotonic() < end_s, "a worker is left"
            time.sleep(0.01)
