"""Who writes: a process, by a name that no other process has had, so that others can tell whether it is gone."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path


def own_name() -> str:
    """Return this process's name: of the boot, the namespace of process numbers, the number, and the start."""
    return _name_of(os.getpid())


@cache
def _name_of(pid: int) -> str:
    """Return the name of a process that runs here. Kept, by the number, which a fork changes."""
    return f"{_machine()}-{pid}-{_started(pid) or ''}"


def is_gone(name: str) -> bool:
    """Say whether the process of that name is known to have ended. One of another machine or container never is."""
    parts = name.rsplit("-", 2)
    if len(parts) < 3 or parts[0] != _machine() or not parts[1].isdecimal():
        return False
    started = _started(int(parts[1]))
    return not _is_there(int(parts[1])) if started is None else started != parts[2]


@cache
def _machine() -> str:
    """Return what is another on each boot of each machine, and in each container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")
        return f"{boot}-{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return f"unknown-{os.urandom(8).hex()}"


def _started(pid: int) -> str | None:
    """Return when a process began, in ticks since the boot; "" for one that has ended; None where nothing is told.

    Where /proc is mounted with hidepid, it tells nothing of the processes of others, though they run.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return "" if fields[0] in {"Z", "X"} else fields[19]


def _is_there(pid: int) -> bool:
    """Return whether there is a process of a number, anybody's."""
    try:
        os.kill(pid, 0)  # which sends nothing
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # it is another user's
        return True
    return True
