"""`make bench`: Tailrace beside nginx and FastAPI, in one run on one machine. Writes build/bench.json.

    python bench/run.py            about three minutes
    python bench/run.py --quick    one short round: to see that it runs, not to quote

The server has one core; wrk and Redis have the other. Each figure of the hot path is the median of three rounds, and
the servers take turns within a round. Needs nginx, wrk and redis-server (apt-get install nginx wrk redis-server).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from machine import LOAD_CORE, SERVER_CORE, BenchError, busy_share
from measure import ClosedLoop, fetch_answer, measure_idle_us, median_of, run_wrk
from peers import (
    PIPELINE,
    PREPARED,
    ROOT,
    TAILRACE,
    WORKPLACE,
    Server,
    check_programs,
    start_fastapi,
    start_nginx,
    start_redis,
    start_tailrace,
)
from report import print_table, write_json
from tailrace.loadtest.processes import rss_mb

BUSY_SHARE_MAX: Final = 0.05
"""Of both cores, at work before anything is started; above it the table says that the machine was not quiet."""
BUSY_ENOUGH: Final = 0.9
"""Of its core; a server that had less waited for wrk, which also takes its time to start and to end."""
OPEN_LOOP_RATE: Final = 5_000
OPEN_LOOP_WORKERS: Final = 1
"""On two cores that the load shares; a second worker made the p99 two to three times as long (docs/performance.md)."""
SCORE_TOLERANCE: Final = 1e-5
COMPARED: Final = 200

Advance = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure."""

    rounds: int = 3
    wrk_s: int = 5
    warm_s: int = 1
    open_loop_s: float = 20.0
    idle_requests: int = 5_000
    starts: int = 3

    @property
    def steps(self) -> int:
        """How many steps the progress bar has."""
        return 5 * (self.rounds + 1) + self.starts + 5


QUICK: Final = Effort(rounds=1, wrk_s=2, warm_s=1, open_loop_s=5.0, idle_requests=1_000, starts=1)


def measure_all(effort: Effort, advance: Advance, notes: list[str]) -> dict[str, Any]:
    """Take every figure; add to the notes what a reader of them must know."""
    advance("preparing the fraud example")
    run_quietly([sys.executable, str(PIPELINE.with_name("prepare.py"))])
    bodies_path = PREPARED / "replay.jsonl"
    bodies = bodies_path.read_bytes().splitlines()
    one_body = WORKPLACE / "body.jsonl"
    one_body.write_bytes(bodies[0])
    ready_s = [measure_start(advance) for _ in range(effort.starts)]
    with ExitStack() as stack:
        advance("starting the servers")
        servers = start_servers(stack, bodies)
        compare_answers(servers, bodies)
        # nginx does not look at a body, and answers more than wrk can take from Lua.
        sent = {name: one_body if name == "nginx" else bodies_path for name in servers}
        runs, cpu = measure_rounds(servers, sent, effort, advance)
        notes += [
            f"{name}: {run.refused:,} of {run.requests:,} answers were refusals, and are not counted."
            for name, run in runs.items()
            if run.refused
        ]
        notes += [
            f"[red]{name} used {each.share:.0%} of its core: the load was its limit, and it could do more.[/]"
            for name, each in cpu.items()
            if each.share < BUSY_ENOUGH
        ]
        advance("one request at a time")
        idle_us = measure_idle_us(servers["tailrace"].url, bodies, effort.idle_requests)
        rss = max(rss_mb(pid) for pid in servers["tailrace"].worker_pids())
    advance(f"open loop at {OPEN_LOOP_RATE:,}/s")
    return {
        "hot_path": hot_path(runs),
        "open_loop": measure_open_loop(bodies, effort),
        "idle_p50_us": round(idle_us, 1),
        "rss_mb": round(rss, 1),
        "ready_s": round(median(ready_s), 3),
        "cost_us_per_prediction": round(cpu["tailrace"].cost_us, 2),
    }


def run_quietly(command: list[str]) -> None:
    """Run a command to its end. Raises BenchError with what it said when it fails."""
    run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if run.returncode:
        raise BenchError(f"{' '.join(command)}:\n{run.stdout}{run.stderr}")


def measure_start(advance: Advance) -> float:
    """Return the seconds from a start of Tailrace, on both cores, to its first 200 on /readyz."""
    advance("start to ready")
    with ExitStack() as stack:
        return start_tailrace(stack, cores={SERVER_CORE, LOAD_CORE}).ready_s


def start_servers(stack: ExitStack, bodies: list[bytes]) -> dict[str, Server]:
    """Start every server of the hot path on its core, Redis filled as LMDB is."""
    redis_url = start_redis(stack)
    run_quietly([TAILRACE, "materialize", str(PIPELINE), "--store", redis_url])
    core = {SERVER_CORE}
    servers = {
        "tailrace": start_tailrace(stack, cores=core),
        "tailrace-redis": start_tailrace(stack, cores=core, store=redis_url, name="tailrace-redis"),
        "fastapi": start_fastapi(stack, str(PREPARED / "store")),
        "fastapi-redis": start_fastapi(stack, redis_url),
    }
    answer = fetch_answer(servers["tailrace"].url, bodies[0])
    servers["nginx"] = start_nginx(stack, answer)
    return servers


def compare_answers(servers: dict[str, Server], bodies: list[bytes]) -> None:
    """Raise BenchError unless all servers but nginx decide alike: a faster wrong answer is no figure."""
    import json

    for body in bodies[:: max(1, len(bodies) // COMPARED)]:
        answers = {name: json.loads(fetch_answer(each.url, body)) for name, each in servers.items() if name != "nginx"}
        expected = answers["tailrace"]
        for name, answer in answers.items():
            close = abs(answer["score"] - expected["score"]) <= SCORE_TOLERANCE
            if not close or answer | {"score": 0} != expected | {"score": 0}:
                raise BenchError(f"{name} answers {answer}, tailrace {expected}, to {body.decode()}")


@dataclass(frozen=True, slots=True)
class Cpu:
    """What a server had of its core while it was loaded, and the µs of it that a request took."""

    share: float
    cost_us: float


def measure_rounds(
    servers: dict[str, Server], sent: dict[str, Path], effort: Effort, advance: Advance
) -> tuple[dict[str, ClosedLoop], dict[str, Cpu]]:
    """Return the medians of every server, and of the processor time it took."""
    runs: dict[str, list[ClosedLoop]] = {name: [] for name in servers}
    cpu: dict[str, list[Cpu]] = {name: [] for name in servers}
    for name, server in servers.items():
        advance(f"warming up {name}")
        run_wrk(server.url, sent[name], effort.warm_s, judged=False)
    for number in range(effort.rounds):
        for name, server in servers.items():
            advance(f"round {number + 1} of {effort.rounds}: {name}")
            before_s, began_s = server.process.cpu_s(), time.perf_counter()
            try:
                run = run_wrk(server.url, sent[name], effort.wrk_s)
            except BenchError as error:
                raise BenchError(f"{name}: {error}") from None
            spent_s, took_s = server.process.cpu_s() - before_s, time.perf_counter() - began_s
            runs[name].append(run)
            cpu[name].append(Cpu(spent_s / took_s, spent_s * 1e6 / run.requests))
    return {name: median_of(each) for name, each in runs.items()}, {
        name: Cpu(median(one.share for one in each), median(one.cost_us for one in each)) for name, each in cpu.items()
    }


def hot_path(runs: dict[str, ClosedLoop]) -> dict[str, float]:
    """Return the figures of the hot path from the medians of every server."""
    nginx, fastapi, fastapi_redis = (runs[name].rps for name in ("nginx", "fastapi", "fastapi-redis"))
    tailrace, on_redis = runs["tailrace"], runs["tailrace-redis"]
    return {
        "nginx_rps": round(nginx),
        "fastapi_rps": round(fastapi),
        "tailrace_rps": round(tailrace.rps),
        "ratio_nginx": round(tailrace.rps / nginx, 3),
        "ratio_fastapi": round(tailrace.rps / fastapi, 2),
        "p99_ms": round(tailrace.p99_ms, 2),
        "redis_rps": round(on_redis.rps),
        "redis_ratio_nginx": round(on_redis.rps / nginx, 3),
        "redis_ratio_fastapi": round(on_redis.rps / fastapi_redis, 2),
    }


def measure_open_loop(bodies: list[bytes], effort: Effort) -> dict[str, Any]:
    """Return the tail under a load that waits for nobody, server and load on the same two cores."""
    from tailrace.loadtest.plan import LoadPlan
    from tailrace.loadtest.runner import run_load

    with ExitStack() as stack:
        cores = {SERVER_CORE, LOAD_CORE}
        server = start_tailrace(stack, cores=cores, workers=OPEN_LOOP_WORKERS, name="tailrace-open-loop")
        warm = LoadPlan(url=server.url, bodies=bodies, rate=OPEN_LOOP_RATE, duration_s=effort.warm_s)
        run_load(warm)
        report = run_load(LoadPlan(url=server.url, bodies=bodies, rate=OPEN_LOOP_RATE, duration_s=effort.open_loop_s))
    if report.ok is None:
        raise BenchError(f"open loop: no answer was good: {report.statuses}")
    return {
        "rate": OPEN_LOOP_RATE,
        "p50_ms": round(report.ok.p50_ns / 1e6, 3),
        "p99_ms": round(report.ok.p99_ns / 1e6, 3),
        "p999_ms": round(report.ok.p999_ns / 1e6, 3),
        "errors": report.slots - report.ok.count,
        "valid": report.valid,
    }


def main(arguments: list[str]) -> int:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench.json", help="default: build/bench.json")
    options = parser.parse_args(arguments)
    effort = QUICK if options.quick else Effort()
    notes = [f"open loop: {OPEN_LOOP_WORKERS} worker; start to ready: on both cores."]
    notes += ["--quick: one short round, not to be quoted."] if options.quick else []
    busy = busy_share()
    if busy > BUSY_SHARE_MAX:
        notes.append(f"[red]other programs took {busy:.0%} of the machine at the start: do not quote these figures.[/]")
    try:
        check_programs()
        if len(os.sched_getaffinity(0)) < 2:
            raise BenchError("two cores are needed: one for the server, one for the load")
        WORKPLACE.mkdir(parents=True, exist_ok=True)
        layout = TextColumn("{task.description:38}"), BarColumn(), TimeElapsedColumn()
        with Progress(*layout, console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("", total=effort.steps, completed=-1)
            figures = measure_all(effort, lambda step: progress.update(task, description=step, advance=1), notes)
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    write_json(figures, options.out)
    print_table(figures, notes, Console())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
