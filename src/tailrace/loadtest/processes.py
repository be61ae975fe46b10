"""Server processes under load: started on given cores, awaited, measured, and ended with all that they have started.

What is left of a server is ended by pid and start time, so that a process that has taken the number of another since
is left alone. Linux only: it reads /proc, and `taskset` sets the cores.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Final

from tailrace.errors import LoadtestError

TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
END_S_MAX: Final = 10.0
"""How long a server may take to end once it is asked to."""
READY_S_MAX: Final = 60.0
_ASK_S_MAX: Final = 2.0
_LOOK_S: Final = 0.005
# Fields of /proc/…/stat after the process's name, which may hold anything:
_STATE, _UTIME, _STIME, _STARTTIME = 0, 11, 12, 19


@dataclass(frozen=True, slots=True)
class Process:
    """A started server. log: the file of its output. started_s: of `time.perf_counter`."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path
    started_s: float

    def tree(self) -> list[int]:
        """Return the pids of the process and all of its descendants."""
        pids, queue = [], [self.popen.pid]
        while queue:
            pid = queue.pop()
            pids.append(pid)
            queue += children_of(pid)
        return pids

    def cpu_s(self) -> float:
        """Return the CPU seconds used so far by the process and its descendants that run, user and system."""
        stats = [_stat_of(pid) for pid in self.tree()]
        return sum(int(stat[_UTIME]) + int(stat[_STIME]) for stat in stats if stat) / TICKS_PER_S

    def tail(self, lines: int = 15) -> str:
        """Return the end of the log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def start(
    stack: ExitStack | None,
    name: str,
    command: Sequence[str],
    log: Path,
    *,
    cores: set[int] | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    end_s_max: float = END_S_MAX,
) -> Process:
    """Start a command in a session of its own, its output in the log; the stack ends it, or else the caller.

    name: for errors. cores: all that the caller has, where none are given. env: added to the caller's environment.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    pinned = ["taskset", "-c", ",".join(map(str, sorted(cores)))] if cores is not None else []
    with log.open("wb") as out:
        popen = subprocess.Popen(
            [*pinned, *command],
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
            cwd=cwd,
            start_new_session=True,
        )
    process = Process(name, popen, log, time.perf_counter())
    if stack is not None:
        stack.callback(end, process, end_s_max)
    return process


def wait_ready(process: Process, url: str, ready_s_max: float = READY_S_MAX) -> float:
    """Wait until the URL answers 200; return the seconds since the process started.

    Raises LoadtestError with the end of the log where the process ends first, or the time does.
    """
    while time.perf_counter() - process.started_s < ready_s_max:
        if _answers(url):
            return time.perf_counter() - process.started_s
        if process.popen.poll() is not None:
            break
        time.sleep(_LOOK_S)
    code = process.popen.poll()
    how = f"was not ready within {ready_s_max:.0f} s" if code is None else f"ended with status {code}"
    raise LoadtestError(
        f"{process.name} {how}:\n{process.tail()}", where=str(process.log), next="mend what it says, and run again"
    )


def end(process: Process, end_s_max: float = END_S_MAX) -> None:
    """Ask the process to end, wait, and kill it and what is left of its descendants, each by its pid."""
    if process.popen.poll() is not None:
        return
    left = births_of(process.tree())
    process.popen.send_signal(signal.SIGTERM)
    try:
        process.popen.wait(end_s_max)
    except subprocess.TimeoutExpired:
        left |= births_of(process.tree())
        process.popen.kill()
        process.popen.wait()
    left.pop(process.popen.pid, None)
    kill_left(left)


def kill_left(births: Mapping[int, str]) -> None:
    """Kill each of these processes that is still the same, and no other of its number."""
    for pid, birth in births.items():
        if birth and start_of(pid) == birth:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def births_of(pids: Iterable[int]) -> dict[int, str]:
    """Return when each process began, as `kill_left` asks for it."""
    return {pid: start_of(pid) for pid in pids}


def children_of(pid: int) -> list[int]:
    """Return the pids of the direct children, none if the process is gone."""
    with suppress(OSError):
        return [
            int(child) for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()
        ]
    return []


def start_of(pid: int) -> str:
    """Return when a process began, in the kernel's ticks; nothing if it is gone."""
    stat = _stat_of(pid)
    return stat[_STARTTIME] if stat else ""


def is_running(pid: int) -> bool:
    """Return whether a process exists and has not ended: a zombie has."""
    stat = _stat_of(pid)
    return bool(stat) and stat[_STATE] not in {"Z", "X"}


def rss_mb(pid: int) -> float:
    """Return the resident memory of one process in MB (10⁶ bytes). Raises LoadtestError for one that has none."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024 / 1e6
    raise LoadtestError(f"process {pid} has no resident memory", next="see in its log whether it has ended")


def free_port() -> int:
    """Return a TCP port that was free a moment ago."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """Return different TCP ports that were free a moment ago."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [int(probe.getsockname()[1]) for probe in probes]


def _stat_of(pid: int) -> list[str]:
    """Return the fields of /proc/…/stat after the name; none if the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _answers(url: str) -> bool:
    """Return whether the URL answers 200."""
    try:
        with urllib.request.urlopen(url, timeout=_ASK_S_MAX) as answer:
            return bool(answer.status == 200)
    except (OSError, HTTPException):  # urllib's own errors are OSErrors
        return False
