from __future__ import annotations

import os
import subprocess
import sys
import time

from tailrace.deadline import MonotonicClock
from tailrace.inference.timing import own_time


def test_what_other_programs_take_of_a_call_is_left_out() -> None:
    """A call beside a program that wants the same core all the time counts what its own thread has computed."""
    time_call, wall_ns, own_ns = own_time(MonotonicClock()), 0, 0
    cores = os.sched_getaffinity(0)
    core = min(cores)
    busy = subprocess.Popen([sys.executable, "-c", f"import os\nos.sched_setaffinity(0, {{{core}}})\nwhile True: pass"])
    try:
        os.sched_setaffinity(0, {core})
        for _ in range(5):
            start_ns = time.monotonic_ns()
            own_ns += time_call(sum, range(4_000_000))
            wall_ns += time.monotonic_ns() - start_ns
    finally:
        os.sched_setaffinity(0, cores)
        busy.kill()
        busy.wait()
    assert own_ns < 0.8 * wall_ns
