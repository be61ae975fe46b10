"""The prediction log: what it costs a worker and its callers at 5,000/s, the observer, and the disk.

Predicted before it ran: 4 µs of a worker's CPU a request, over the aim of 1 and the must of 2, since each batch of one
call is looked through a dozen times and its caller's headers are read; 0.1 ms of p99; no row dropped; 60,000
predictions a second of the observer's CPU, less where frames are small; 120 bytes a prediction.
"""

from __future__ import annotations

import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from shutil import rmtree
from statistics import median
from tempfile import mkdtemp
from typing import Final

from figures import Figures
from front_door_tls import cpu_ns
from machine import LOAD_CORE, SERVER_CORE, BenchError
from part import Line, Part, Session
from peers import Server, start_tailrace
from ratios import bounds
from tailrace.loadtest.plan import LoadPlan
from tailrace.loadtest.runner import run_load

RATE: Final = 5_000
PAIRS: Final = 20
SECONDS: Final = 0.4


def measure(session: Session) -> Figures:
    """Return the medians over pairs of short loads, one without the log and one with it."""
    folder = Path(mkdtemp(prefix="tailrace-log-"))
    try:
        with ExitStack() as stack:
            return {"monitoring": _measure(session, stack, folder)}
    finally:
        rmtree(folder)


def _measure(session: Session, stack: ExitStack, folder: Path) -> Figures:
    cores = {SERVER_CORE, LOAD_CORE}
    bodies = session.bodies.read_bytes().splitlines()
    added_us, added_ms = [], []
    plain = start_tailrace(stack, cores=cores, name="tailrace-unlogged")
    with ExitStack() as serving:
        logged = start_tailrace(serving, cores=cores, name="tailrace-logged", options=("--log", str(folder)))
        observer = [each["pid"] for each in logged.status()["companions"] if each["name"] == "observer"]
        for server in (plain, logged):
            load(server, bodies, 1.0)
        began_ns, began = cpu_ns(observer), written(logged)[0]
        pairs = session.pick(PAIRS, 3)
        for number in range(pairs):
            session.tell(f"prediction log, {number + 1} of {pairs}")
            order = (plain, logged) if number % 2 else (logged, plain)
            found = {server: load(server, bodies, SECONDS) for server in order}
            added_us.append(found[logged][0] - found[plain][0])
            added_ms.append(found[logged][1] - found[plain][1])
        time.sleep(2.0)
        requests, lost = written(logged)
        observer_s = (cpu_ns(observer) - began_ns) / 1e9
    return {
        "worker_us": round(median(added_us), 2),
        "p99_added_ms": round(bounds(added_ms)[1], 3),
        "p99_added_median_ms": round(median(added_ms), 3),
        "dropped": lost,
        "observer_per_cpu_s": round((requests - began) / observer_s),
    }


def load(server: Server, bodies: list[bytes], seconds: float) -> tuple[float, float]:
    """Return the µs of the worker's CPU that a request took, and the p99 in ms."""
    before_ns = cpu_ns(server.worker_pids())
    report = run_load(LoadPlan(url=server.url, bodies=bodies, rate=RATE, duration_s=seconds))
    if report.ok is None:
        raise BenchError(f"prediction log: no answer was good: {report.statuses}")
    return (cpu_ns(server.worker_pids()) - before_ns) / 1e3 / report.ok.count, report.ok.p99_ns / 1e6


def written(server: Server) -> tuple[int, int]:
    """Return how many requests are logged, and how many are lost."""
    with urllib.request.urlopen(f"{server.admin}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    logged = sum(float(line.split()[-1]) for line in lines if line.startswith("tailrace_predictions_logged_total{"))
    lost = sum(float(line.split()[-1]) for line in lines if line.startswith("tailrace_predictions_lost_total{"))
    return int(logged), int(lost)


def lines(figures: Figures) -> list[Line]:
    """Return the lines of the table."""
    found = figures["monitoring"]
    return [
        Line(f"every request logged at {RATE:,}/s: a worker's CPU a request", found["worker_us"], 2, 1, " µs"),
        Line("  p99 added, upper bound over pairs", found["p99_added_ms"], 0.5, 0.1, " ms"),
        Line("  rows dropped", found["dropped"], 0, 0),
        Line("  predictions a second of the observer's CPU", found["observer_per_cpu_s"], 20_000, 60_000,
             more_is_better=True),
    ]  # fmt: skip


PART: Final = Part(
    name="monitoring_log",
    about="the prediction log: what it costs the worker, the observer and the disk",
    caveats=(
        f"monitoring_log: {PAIRS} pairs of {SECONDS} s, without the log and with it; servers, observer and load share "
        "two cores.",
    ),
    steps=lambda session: session.pick(PAIRS, 3),
    measure=measure,
    lines=lines,
)
