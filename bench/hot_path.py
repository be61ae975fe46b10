"""Requests a second at 64 connections: Tailrace beside nginx and FastAPI, on LMDB and on Redis."""

from __future__ import annotations

import json
import subprocess
import time
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median
from typing import Final

from answers import fetch_answer
from figures import Figures
from machine import SERVER_CORE, BenchError
from part import Line, Part, Session
from peers import PIPELINE, PREPARED, ROOT, TAILRACE, Server, start_fastapi, start_nginx, start_redis, start_tailrace
from replay import Replayed
from tailrace.loadtest.processes import rss_mb

ROUNDS: Final = 5
SECONDS: Final = 2.0
SERVERS: Final = ("tailrace", "tailrace-redis", "fastapi", "fastapi-redis", "nginx")
BUSY_ENOUGH: Final = 0.9
"""Of its core; a server that had less waited for the load, which also takes its time to start and to end."""
SCORE_TOLERANCE: Final = 1e-5
COMPARED: Final = 200


@dataclass(frozen=True, slots=True)
class Round:
    """What a server did in one round, the share that it had of its core, and the µs of it that a request took."""

    run: Replayed
    cpu_share: float
    cost_us: float


def measure(session: Session) -> Figures:
    """Return the medians of every server's rounds; the servers take turns within a round."""
    with ExitStack() as stack:
        session.tell("hot path: starting the servers")
        bodies = session.bodies.read_bytes().splitlines()
        servers = start_servers(stack, bodies)
        compare_answers(servers, bodies)
        for name, server in servers.items():
            session.tell(f"hot path: warming up {name}")
            session.replay.plain(server.url, session.bodies, 1.0, judged=False)
        rounds: dict[str, list[Round]] = {name: [] for name in servers}
        count = session.pick(ROUNDS, 1)
        for number in range(count):
            for name, server in servers.items():
                session.tell(f"hot path, {number + 1} of {count}: {name}")
                rounds[name].append(measure_round(session, server))
        rss = max(rss_mb(pid) for pid in servers["tailrace"].worker_pids())
    note_limits(session, rounds)
    cost_us = median(each.cost_us for each in rounds["tailrace"])
    return {"hot_path": summarize(rounds), "rss_mb": round(rss, 1), "cost_us_per_prediction": round(cost_us, 2)}


def start_servers(stack: ExitStack, bodies: list[bytes]) -> dict[str, Server]:
    """Start every server on its core, Redis filled as LMDB is."""
    redis_url = start_redis(stack)
    fill = [TAILRACE, "materialize", str(PIPELINE), "--store", redis_url]
    filled = subprocess.run(fill, capture_output=True, text=True, check=False, cwd=ROOT)
    if filled.returncode:
        raise BenchError(f"{' '.join(fill)}:\n{filled.stdout}{filled.stderr}")
    core = {SERVER_CORE}
    servers = {
        "tailrace": start_tailrace(stack, cores=core),
        "tailrace-redis": start_tailrace(stack, cores=core, store=redis_url, name="tailrace-redis"),
        "fastapi": start_fastapi(stack, str(PREPARED / "nightly_store")),
        "fastapi-redis": start_fastapi(stack, redis_url),
    }
    servers["nginx"] = start_nginx(stack, fetch_answer(servers["tailrace"].url, bodies[0]))
    return servers


def compare_answers(servers: dict[str, Server], bodies: list[bytes]) -> None:
    """Raise BenchError unless all servers but nginx decide alike: a faster wrong answer is no figure."""
    for body in bodies[:: max(1, len(bodies) // COMPARED)]:
        answers = {name: json.loads(fetch_answer(each.url, body)) for name, each in servers.items() if name != "nginx"}
        expected = answers["tailrace"]
        for name, answer in answers.items():
            close = abs(answer["score"] - expected["score"]) <= SCORE_TOLERANCE
            if not close or answer | {"score": 0} != expected | {"score": 0}:
                raise BenchError(f"{name} answers {answer}, tailrace {expected}, to {body.decode()}")


def measure_round(session: Session, server: Server) -> Round:
    """Load one server, and ask the kernel what it took."""
    before_s, began_s = server.process.cpu_s(), time.perf_counter()
    run = session.replay.plain(server.url, session.bodies, session.pick(SECONDS, 1.0))
    spent_s, took_s = server.process.cpu_s() - before_s, time.perf_counter() - began_s
    return Round(run, spent_s / took_s, spent_s / took_s * 1e6 / run.rps)


def note_limits(session: Session, rounds: dict[str, list[Round]]) -> None:
    """Note what was refused, and which server was not the limit."""
    for name, each in rounds.items():
        if refused := sum(one.run.refused for one in each):
            session.notes.append(f"{name}: {refused:,} answers were refusals, and are not counted.")
        share = median(one.cpu_share for one in each)
        if share < BUSY_ENOUGH:
            session.notes.append(
                f"[red]{name} used {share:.0%} of its core: the load was its limit, and it could do more.[/]"
            )


def summarize(rounds: dict[str, list[Round]]) -> Figures:
    """Return the figures of the hot path."""
    rps = {name: median(one.run.rps for one in each) for name, each in rounds.items()}
    return {
        "nginx_rps": round(rps["nginx"]),
        "fastapi_rps": round(rps["fastapi"]),
        "tailrace_rps": round(rps["tailrace"]),
        "ratio_nginx": round(rps["tailrace"] / rps["nginx"], 3),
        "ratio_fastapi": round(rps["tailrace"] / rps["fastapi"], 2),
        "p99_ms": round(median(one.run.p99_us for one in rounds["tailrace"]) / 1e3, 2),
        "redis_rps": round(rps["tailrace-redis"]),
        "redis_ratio_nginx": round(rps["tailrace-redis"] / rps["nginx"], 3),
        "redis_ratio_fastapi": round(rps["tailrace-redis"] / rps["fastapi-redis"], 2),
    }


def lines(figures: Figures) -> list[Line]:
    """Return the lines of the table."""
    hot = figures["hot_path"]
    return [
        Line("nginx `return 200`, requests/s", hot["nginx_rps"]),
        Line("FastAPI on LMDB, requests/s", hot["fastapi_rps"]),
        Line("FastAPI on Redis, requests/s", hot["redis_rps"] / hot["redis_ratio_fastapi"]),
        Line("Tailrace on LMDB, requests/s", hot["tailrace_rps"]),
        Line("  against nginx", hot["ratio_nginx"], 0.35, 0.50, more_is_better=True),
        Line("  against FastAPI", hot["ratio_fastapi"], 6, 10, "×", more_is_better=True),
        Line("  p99, closed loop", hot["p99_ms"], unit=" ms"),
        Line("Tailrace on Redis, requests/s", hot["redis_rps"]),
        Line("  against nginx", hot["redis_ratio_nginx"], 0.20, 0.30, more_is_better=True),
        Line("  against FastAPI on Redis", hot["redis_ratio_fastapi"], 7, 11, "×", more_is_better=True),
        Line("resident memory of a worker", figures["rss_mb"], 220, 150, " MB"),
        Line("CPU a prediction", figures["cost_us_per_prediction"], unit=" µs"),
    ]


PART: Final = Part(
    name="hot_path",
    about="the fraud example with everything on, requests/s of one core at 64 connections",
    caveats=(
        "hot path: a closed loop waits for the server, so its p99 flatters a full one; the open loop's does not. "
        "The server has one core; the load and Redis share another.",
        "FastAPI: one uvicorn worker with uvloop and httptools, as one core allows; pydantic, one LMDB read or Redis "
        "MGET and one model call a request, a Prometheus histogram. It answers alike, checked before every run.",
    ),
    steps=lambda session: 1 + len(SERVERS) * (1 + session.pick(ROUNDS, 1)),
    measure=measure,
    lines=lines,
)
