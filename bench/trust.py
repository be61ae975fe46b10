"""Releases under fire: models packaged over the served one and workers killed, and what starting and memory cost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np

from before import TREE, export_tree, file_of, prepare_tree
from figures import Figures
from machine import LOAD_CORE, SERVER_CORE, BenchError
from part import Line, Part, Session
from peers import TAILRACE, WORKPLACE, Server, start_tailrace
from tailrace.loadtest.plan import LoadPlan
from tailrace.loadtest.processes import rss_mb
from tailrace.loadtest.record import BROKEN
from tailrace.loadtest.report import LoadReport
from tailrace.loadtest.runner import run_load

ROUNDS: Final = 20
RATE: Final = 2_000
ROUND_S: Final = 3.5
"""The load's part for each round: a round takes less, and the load must outlast them."""
STARTS: Final = 7
UNSEEN_NS: Final = 50_000_000
"""How long a client that is busy may send on a connection whose end it has not seen."""
READY_S_MAX: Final = 30.0
PIPELINE: Final = '''"""A model whose scores tell which one it is."""

import tailrace as tr


class Payment(tr.Request):
    amount: float


class Decision(tr.Response):
    score: float


pay = tr.Pipeline(name="pay", request=Payment, response=Decision, features=[Payment.amount], model=tr.Model("pay"),
                  budget=tr.Budget("500ms"))
'''


@dataclass
class Killed:
    """When each killed worker was gone, monotonic ns."""

    gone_ns: list[int] = field(default_factory=list)


def measure(session: Session) -> Figures:
    """Return the figures of all."""
    session.tell("trust: starts")
    figures = measure_starts(session)
    return {"trust": figures | measure_rounds(session)}


def measure_starts(session: Session) -> Figures:
    """Return how long a start takes beside the earlier commit's, and what a worker that has been asked holds."""
    export_tree(session.base, TREE)
    prepare_tree(TREE)
    pairs = []
    for number in range(session.pick(STARTS, 1)):
        session.tell(f"trust: start {number + 1}")
        base_s = start_base() if number % 2 else 0.0
        now_s = start_once(session)[0]
        pairs.append((now_s, base_s or start_base()))
    return {
        "ready_s": round(median(now_s for now_s, _ in pairs), 3),
        "ready_ratio": round(median(now_s / base_s for now_s, base_s in pairs), 3),
        "ready_ratio_max": round(max(now_s / base_s for now_s, base_s in pairs), 3),
        "worker_rss_mb": round(start_once(session, asked=True)[1], 1),
    }


def start_once(session: Session, *, asked: bool = False) -> tuple[float, float]:
    """Return the seconds of a start on both cores, and a worker's memory. asked: after two seconds of load."""
    with ExitStack() as stack:
        server = start_tailrace(stack, cores={SERVER_CORE, LOAD_CORE}, name="tailrace-trust-start")
        if asked:
            session.replay.plain(server.url, session.bodies, 2.0)
        return server.ready_s, max(rss_mb(pid) for pid in server.worker_pids())


def start_base() -> float:
    """Return the seconds of a start of the earlier commit."""
    with ExitStack() as stack:
        file = file_of(TREE)
        cores = {SERVER_CORE, LOAD_CORE}
        return start_tailrace(stack, cores=cores, name="tailrace-trust-base", file=file, source=TREE / "src").ready_s


def measure_rounds(session: Session) -> Figures:
    """Return what was answered while models were replaced and workers killed, a worker each round."""
    rounds = session.pick(ROUNDS, 2)
    folder = WORKPLACE / "trust"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    file = folder / "pipeline.py"
    file.write_text(PIPELINE)
    write_graphs(folder, rounds + 1)
    package(folder, 0)
    with ExitStack() as stack:
        cores = {SERVER_CORE, LOAD_CORE}
        server = start_tailrace(stack, cores=cores, workers=2, name="tailrace-trust", file=file, pipeline="pay")
        plan = LoadPlan(
            server.url, [b'{"amount": 1.0}'], rate=RATE, duration_s=rounds * ROUND_S, headers=[("X-Trace", "1")],
            budget_ns=500_000_000, keep_bodies=True, drain_s=10.0,
        )  # fmt: skip
        reports: list[LoadReport] = []
        sending = threading.Thread(target=lambda: reports.append(run_load(plan)))
        sending.start()
        killed = Killed()
        for number in range(1, rounds + 1):
            session.tell(f"trust: package and kill, {number} of {rounds}")
            package(folder, number)
            kill_worker(server, number % 2, killed)
        is_outlasted = sending.is_alive()
        sending.join()
    if not reports:
        raise BenchError("trust: the load ended with an error")
    if not is_outlasted:
        session.notes.append("trust: the load ended before the last kill; give ROUND_S more.")
    return summarize(reports[0], killed.gone_ns, rounds)


def summarize(report: LoadReport, gone_ns: Sequence[int], rounds: int) -> Figures:
    """Return the counts. A shot may fail if it was sent before the process that had its connection was gone."""
    record = report.record
    scores = {round(json.loads(body)["score"], 6) for body in report.bodies if body}
    broken = record.statuses == BROKEN
    # A connection breaks with its process, and what was sent on it before that. None that is sent later may fail.
    in_flight = np.zeros(record.shots, bool)
    for at_ns in gone_ns:
        sent_ns = record.sent_ns
        in_flight |= broken & (sent_ns <= at_ns + UNSEEN_NS) & (sent_ns > at_ns - report.plan.budget_ns)
    failed = record.statuses != 200
    return {
        "rounds": rounds,
        "requests": report.shots,
        "answered": report.ok.count if report.ok else 0,
        "failed_in_flight": int(np.count_nonzero(in_flight)),
        "failed_beyond_in_flight": int(np.count_nonzero(failed & ~in_flight)),
        "mixed_releases": len(scores) - 1,
        "p99_ms": round(report.ok.p99_ns / 1e6, 2) if report.ok else None,
    }


def write_graphs(folder: Path, count: int) -> None:
    """Write so many models, each with a score of its own, and the rows they are packaged with."""
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\n"
        "from onnx import helper\n"
        "from pipelines.model_graphs import FLOAT, constant, save\n"
        "for n in range(int(sys.argv[3])):\n"
        "    nodes = [helper.make_node('Mul', ['amount', 'weight'], ['score'])]\n"
        "    path = Path(sys.argv[2]) / f'model-{n}.onnx'\n"
        "    save(path, nodes, {'amount': FLOAT}, 1, [constant('weight', [n + 1.0])])\n"
    )
    tests = Path(__file__).parents[1] / "tests"
    subprocess.run([sys.executable, "-c", script, str(tests), str(folder), str(count)], check=True)
    (folder / "rows.csv").write_text("amount\n" + "".join(f"{row / 10}\n" for row in range(1, 51)))


def package(folder: Path, number: int) -> None:
    """Package one of the models over the one that is there."""
    command = [TAILRACE, "package", str(folder / f"model-{number}.onnx"), "--data", str(folder / "rows.csv"),
               "--name", "pay", "--out", str(folder / "models" / "pay"), "--overwrite"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"{' '.join(command)}:\n{done.stdout}{done.stderr}")


def kill_worker(server: Server, slot: int, killed: Killed) -> None:
    """Kill one worker, and wait until its successor is ready."""
    pid = server.status()["workers"][slot]["pid"]
    os.kill(pid, signal.SIGKILL)
    end_s = time.monotonic() + READY_S_MAX
    while is_running(pid):
        time.sleep(0.000_1)
    killed.gone_ns.append(time.monotonic_ns())
    while True:
        worker = server.status()["workers"][slot]
        if worker["state"] == "ready" and worker["pid"] != pid:
            return
        if time.monotonic() > end_s:
            raise BenchError(f"trust: the worker killed in slot {slot} has no successor")
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    """Say whether a process is there and has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def lines(figures: Figures) -> list[Line]:
    """Return the lines of the table."""
    trust = figures["trust"]
    return [
        Line("start to ready", trust["ready_s"], unit=" s"),
        Line("  beside the earlier commit's", trust["ready_ratio"], 1.2, 1.05),
        Line("memory of a worker", trust["worker_rss_mb"], 62, 58, " MB"),
        Line(f"{trust['rounds']} models packaged, {trust['rounds']} workers killed: requests", trust["requests"]),
        Line("  in flight on a killed worker", trust["failed_in_flight"]),
        Line("  failed beyond", trust["failed_beyond_in_flight"], 0, 0),
        Line("  releases beside the first", trust["mixed_releases"], 0, 0),
        Line("  p99", trust["p99_ms"], unit=" ms"),
    ]


PART: Final = Part(
    name="trust",
    about="a server whose model is replaced and whose workers are killed",
    caveats=(
        f"trust: {RATE:,} requests/s, two workers and the load on the same two cores, each traced; a failure is in "
        "flight if it was sent to a worker before its client had seen that the worker is gone, 50 ms at most.",
    ),
    steps=lambda session: 1 + 2 * session.pick(STARTS, 1) + session.pick(ROUNDS, 2),
    measure=measure,
    lines=lines,
)
