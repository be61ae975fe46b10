"""The machine that a benchmark has: two cores, one for the server and one for the load, and how quiet they are."""

from __future__ import annotations

import time
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
