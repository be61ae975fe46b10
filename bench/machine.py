"""The machine that a benchmark has: two cores, one for the server and one for the load, and how quiet they are."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tailrace.errors import LoadtestError

SERVER_CORE: Final = 0
LOAD_CORE: Final = 1

BenchError = LoadtestError
"""A figure could not be taken; no half of a benchmark is reported. A server that does not start raises the same."""


def busy_share(seconds: float = 1.0) -> float:
    """Return which share of the machine is at work just now, from 0 to 1; time that a hypervisor takes counts too."""

    def read() -> tuple[int, int]:
        fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        return sum(fields), fields[3] + fields[4]  # idle, iowait

    whole, idle = read()
    time.sleep(seconds)
    whole_later, idle_later = read()
    return 1.0 - (idle_later - idle) / max(whole_later - whole, 1)


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """Have what runs here, and what it starts without a core of its own, on one core until the end of the block."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
