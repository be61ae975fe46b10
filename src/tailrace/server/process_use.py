"""What a process uses of the cores and of the memory, as the kernel says."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_TICKS_A_S: Final = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_AT_CPU: Final = slice(11, 13)
_AT_RSS: Final = 21
"""Behind the name of /proc/PID/stat: ticks in user and kernel mode; pages."""


def cpu_s(pid: int) -> float:
    """Return how long a process has been at work on a core; 0 for one that is gone."""
    return sum(map(int, fields[_AT_CPU])) / _TICKS_A_S if (fields := _stat(pid)) else 0.0


def rss_bytes(pid: int) -> int:
    """Return the resident memory of a process; 0 for one that is gone."""
    return int(fields[_AT_RSS]) * _PAGE_BYTES if (fields := _stat(pid)) else 0


def _stat(pid: int) -> list[str]:
    """Return what stands behind the name of a process, which may hold anything; nothing of one that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
