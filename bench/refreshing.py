"""What a refresh of a million rows adds to the p99 of those who ask meanwhile, in interleaved pairs of windows."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np

from answers import fetch_answer
from constant_model import write_constant_model
from figures import Figures
from machine import LOAD_CORE, SERVER_CORE, BenchError
from part import Session
from peers import HERE, WORKPLACE, Server, start_tailrace
from ratios import bounds
from streamed_world import feature_names, run_tailrace
from tailrace.compile.loading import load_pipelines
from tailrace.loadtest.plan import LoadPlan
from tailrace.loadtest.processes import TICKS_PER_S
from tailrace.loadtest.record import ShotRecord
from tailrace.loadtest.runner import run_load

FILE: Final = HERE / "refreshed" / "pipeline.py"
WORLD: Final = WORKPLACE / "refreshed"
ROWS: Final = 1_000_000
RATE: Final = 2_000
PAIRS: Final = 20
SPARE_PAIRS: Final = 3
"""More than are wanted: the refresher rests for a second between two refreshes, and such a window shows nothing."""
WINDOW_S: Final = 0.6
SETTLE_S: Final = 0.05
"""Left out at the begin of each window: what was sent in the one before is answered then."""
AT_WORK_S: Final = 0.02
"""The CPU that the refresher takes at least in a window in which it counts as at work."""
BODIES: Final = 5_000
FIRST: Final = b'{"customer_id":0}'
"""Of the first page that a refresh writes."""
BEGIN_S_MAX, BEGIN_CPU_S = 20.0, 0.2
"""How long a refresh may take to begin, and the CPU by which it is known to have."""
REFRESHED_S_MAX: Final = 60.0
REST_S_MAX: Final = 0.3
"""How long the end of a page is waited for; what sorts the source meanwhile has none, and is stopped."""


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of the load, monotonic ns. is_on: whether the refresher was let run; cpu_s: what it took of a core."""

    is_on: bool
    begin_ns: int
    end_ns: int
    cpu_s: float


def measure_refresh(session: Session) -> Figures:
    """Return how many ms of p99 a refresh adds: the median of the pairs, and the upper of its bounds."""
    session.tell("features: a million rows to be refreshed")
    shutil.rmtree(WORLD, ignore_errors=True)
    (pipeline,) = load_pipelines(FILE)
    write_constant_model(feature_names(pipeline), WORLD / "constant")
    run_tailrace("materialize", str(FILE))
    random = np.random.default_rng(5)
    bodies = [b'{"customer_id":%d}' % customer for customer in random.integers(0, ROWS, BODIES)]
    pairs = session.pick(PAIRS + SPARE_PAIRS, 2)
    with ExitStack() as stack:
        server = start_tailrace(stack, cores={SERVER_CORE}, file=FILE, pipeline="refreshed", name="tailrace-refreshed",
                                options=("--refresh",))  # fmt: skip
        before = fetch_answer(server.url, FIRST)
        pid = refresher_pid(server)
        session.tell("features: requests beside a refresh")
        stack.enter_context(on_load_core())
        plan = LoadPlan(server.url, bodies, rate=RATE, duration_s=1.0 + 2 * pairs * WINDOW_S, budget_ns=50_000_000)
        windows: list[Window] = []
        if not is_begun(pid):
            return leave_out(session, f"no refresh began within {BEGIN_S_MAX:.0f} s")
        turns = threading.Thread(target=lambda: windows.extend(take_turns(pid, pairs, WINDOW_S)))
        turns.start()
        try:
            report = run_load(plan)
        finally:
            turns.join()
        wait_refreshed(server, before)
    if not report.valid:
        session.notes.append(f"features: requests beside a refresh: {'; '.join(report.reasons)}")
    return summarize(session, report.record, windows)


@contextmanager
def on_load_core() -> Iterator[None]:
    """Have what is started here, and so the load, on the load's core until the end."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {LOAD_CORE})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def refresher_pid(server: Server) -> int:
    """Return the pid of the server's refresher."""
    (pid,) = (each["pid"] for each in server.status()["companions"] if each["name"] == "refresher")
    return int(pid)


def cpu_s(pid: int) -> float:
    """Return the CPU seconds that a process has used, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def is_begun(pid: int) -> bool:
    """Wait until the refresher takes CPU, and so reads its source; return whether it did in time."""
    end_s, begin_cpu_s = time.monotonic() + BEGIN_S_MAX, cpu_s(pid)
    while cpu_s(pid) < begin_cpu_s + BEGIN_CPU_S:
        if time.monotonic() > end_s:
            return False
        time.sleep(0.05)
    return True


def wait_refreshed(server: Server, before: bytes) -> None:
    """Wait until the first page has other values than before. Raises BenchError where it has not in time."""
    end_s = time.monotonic() + REFRESHED_S_MAX
    while fetch_answer(server.url, FIRST) == before:
        if time.monotonic() > end_s:
            raise BenchError(f"features: no row was refreshed within {REFRESHED_S_MAX:.0f} s")
        time.sleep(0.1)


def is_resting(pid: int) -> bool:
    """Say whether all threads of a process sleep: it neither computes, nor wants to, nor waits for the disk."""
    stats = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    return all(stat.rpartition(")")[2].split()[0] == "S" for stat in stats)


def stop(pid: int) -> None:
    """Stop a refresher where it rests: it rests by the clock, and a page that is stopped would bring a longer rest."""
    end_s = time.monotonic() + REST_S_MAX
    while not is_resting(pid) and time.monotonic() < end_s:
        time.sleep(0.002)
    os.kill(pid, signal.SIGSTOP)


def take_turns(pid: int, pairs: int, seconds: float) -> list[Window]:
    """Let the refresher run and stop it in turns; return the windows, two a pair, of which the first one alternates."""
    windows: list[Window] = []
    try:
        for number in range(pairs):
            for is_on in (True, False) if number % 2 else (False, True):
                if is_on:
                    os.kill(pid, signal.SIGCONT)
                elif not windows or windows[-1].is_on:
                    stop(pid)
                begin_ns, begin_s = time.monotonic_ns(), cpu_s(pid)
                time.sleep(seconds)
                windows.append(Window(is_on, begin_ns, time.monotonic_ns(), cpu_s(pid) - begin_s))
    finally:
        os.kill(pid, signal.SIGCONT)
    return windows


def summarize(session: Session, record: ShotRecord, windows: Sequence[Window]) -> Figures:
    """Return the figures of the pairs in which a refresh was at work; nothing, and a note, where these are too few."""
    if failed := int(np.count_nonzero(record.statuses != 200)):
        session.notes.append(f"features: {failed} requests beside a refresh were not answered well.")
    quiet_ms, added_ms = [], []
    for pair in zip(windows[::2], windows[1::2], strict=True):
        on, off = sorted(pair, key=lambda window: not window.is_on)
        if on.cpu_s >= AT_WORK_S:
            quiet_ms.append(p99_ms(record, off))
            added_ms.append(p99_ms(record, on) - quiet_ms[-1])
    if len(added_ms) < session.pick(PAIRS, 1):
        return leave_out(session, f"a refresh was at work in {len(added_ms)} of {len(windows) // 2} pairs only")
    low, high = bounds(added_ms)
    return {
        "refresh_p99_change_ms": round(high, 3),
        "refresh_p99_change_median_ms": round(median(added_ms), 3),
        "refresh_p99_change_bounds_ms": [round(low, 3), round(high, 3)],
        "refresh_p99_without_ms": round(median(quiet_ms), 3),
    }


def leave_out(session: Session, why: str) -> Figures:
    """Note why there is no figure: the refresher is the last to get a core, and on a busy machine it gets none."""
    session.notes.append(f"[red]features: what a refresh adds is not told: {why}; other programs had its core.[/]")
    return {}


def p99_ms(record: ShotRecord, window: Window) -> float:
    """Return the p99 of the good answers to what was due in a window, but for its begin."""
    due = (record.intended_ns >= window.begin_ns + SETTLE_S * 1e9) & (record.intended_ns < window.end_ns)
    good = record.latencies_ns[due & (record.statuses == 200)]
    if not len(good):
        raise BenchError("features: nothing was answered well in a window beside a refresh")
    return float(np.quantile(good, 0.99, method="inverted_cdf")) / 1e6
