"""Processes under measurement: started on a core, asked for what they use, ended by their own pid."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SERVER_CORE: Final = 0
LOAD_CORE: Final = 1
TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


class BenchError(Exception):
    """A figure could not be taken; no half of a benchmark is reported."""


@dataclass(frozen=True, slots=True)
class Process:
    """A started server: its process, where it logs, and the wall time of its start."""

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
        """Return the CPU seconds used so far by the process and its descendants, user and system."""
        total = 0
        for pid in self.tree():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
        return total / TICKS_PER_S

    def tail(self, lines: int = 15) -> str:
        """Return the end of the log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def start(
    stack: ExitStack,
    name: str,
    command: Sequence[str],
    log: Path,
    *,
    cores: set[int],
    env: dict[str, str] | None = None,
) -> Process:
    """Start a command on these cores; the stack ends it. Its output goes to the log."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as out:
        popen = subprocess.Popen(
            ["taskset", "-c", ",".join(map(str, sorted(cores))), *command],
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )
    process = Process(name, popen, log, time.perf_counter())
    stack.callback(end, process)
    return process


def end(process: Process, patience_s: float = 10.0) -> None:
    """Ask the process to end, wait, and kill what is left of it, each by its pid."""
    started = {pid: start_of(pid) for pid in process.tree()} if process.popen.poll() is None else {}
    if process.popen.poll() is None:
        process.popen.send_signal(signal.SIGTERM)
        try:
            process.popen.wait(patience_s)
        except subprocess.TimeoutExpired:
            process.popen.kill()
            process.popen.wait()
    started.pop(process.popen.pid, None)
    for pid, began in started.items():
        if began and start_of(pid) == began:  # the same process still, and no other of its number
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def children_of(pid: int) -> list[int]:
    """Return the pids of the direct children, none if the process is gone."""
    with suppress(OSError):
        return [
            int(child) for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()
        ]
    return []


def start_of(pid: int) -> str:
    """Return when a process began, in the kernel's ticks; nothing if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def rss_mb(pid: int) -> float:
    """Return the resident memory of one process in MB (10⁶ bytes)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise BenchError(f"process {pid} tells no VmRSS")


def busy_share(seconds: float = 1.0) -> float:
    """Return which share of the machine is at work just now, from 0 to 1; time that a hypervisor takes counts too."""

    def read() -> tuple[int, int]:
        fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        return sum(fields), fields[3] + fields[4]  # idle, iowait

    whole, idle = read()
    time.sleep(seconds)
    whole_later, idle_later = read()
    return 1.0 - (idle_later - idle) / max(whole_later - whole, 1)


def free_port() -> int:
    """Return a TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_ready(process: Process, url: str, patience_s: float = 60.0) -> float:
    """Wait until the URL answers 200; return the seconds since the process started.

    Raises BenchError with the end of the log when the process ends first, or patience does.
    """
    while time.perf_counter() - process.started_s < patience_s:
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                if answer.status == 200:
                    return time.perf_counter() - process.started_s
        except (OSError, urllib.error.URLError):
            pass
        if process.popen.poll() is not None:
            raise BenchError(f"{process.name} ended with status {process.popen.returncode}:\n{process.tail()}")
        time.sleep(0.005)
    raise BenchError(f"{process.name} was not ready within {patience_s:.0f} s:\n{process.tail()}")
