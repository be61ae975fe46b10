"""The fraud example as its README serves it: each payment is written, counted by the ingester, and only then scored.

Payments come in an open loop, each one new: an event that comes twice, or late, is refused, and is no work. Server,
ingester and load share both cores, as on a machine of two; Redis has the load's core.
"""

from __future__ import annotations

import json
import re
import shutil
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta
from itertools import cycle, islice
from pathlib import Path
from typing import Final

import lmdb
import redis

from figures import Figures
from machine import LOAD_CORE, SERVER_CORE, BenchError
from part import Session
from peers import PREPARED, ROOT, WORKPLACE, Server, start_redis, start_tailrace
from tailrace.loadtest.plan import LoadPlan
from tailrace.loadtest.report import LoadReport
from tailrace.loadtest.runner import run_load

FILE: Final = ROOT / "examples" / "fraud" / "pipeline.py"
FOLDER: Final = WORKPLACE / "recorded"
RATES: Final = (1_000, 5_000)
SECONDS: Final = 5.0
WARM_RATE, WARM_S = 500, 0.5
BUDGET_NS: Final = 50_000_000
STORES: Final = {"recorded_lmdb": "LMDB", "recorded_redis": "Redis"}
"""The keys of the figures, and what their stores are called."""
REFUSED: Final = ("duplicate", "late", "future")


def measure_recorded(session: Session) -> Figures:
    """Return, of each store, the figures of a load at each rate."""
    figures: Figures = {}
    for key, name in STORES.items():
        with serving(name) as server:
            run_load(LoadPlan(server.url, payments(session.bodies, WARM_RATE, WARM_S), rate=WARM_RATE,
                              duration_s=WARM_S, budget_ns=BUDGET_NS))  # fmt: skip
            figures[key] = [measure_rate(session, server, name, rate) for rate in RATES]
    return figures


@contextmanager
def serving(store: str) -> Iterator[Server]:
    """Serve the fraud example on a copy of its store, LMDB or Redis: what is counted is none of the example's."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    with lmdb.open(str(PREPARED / "store"), readonly=True) as prepared:
        prepared.copy(str(FOLDER))
    with ExitStack() as stack:
        url = f"lmdb:{FOLDER}"
        if store == "Redis":
            url = start_redis(stack)
            fill(url)
        yield start_tailrace(stack, cores={SERVER_CORE, LOAD_CORE}, file=FILE, store=url,
                             name=f"tailrace-recorded-{store.lower()}")  # fmt: skip


def fill(url: str) -> None:
    """Write the rows of the copy into Redis, where they have the same keys and the same bytes."""
    with (
        lmdb.open(str(FOLDER), readonly=True, lock=False) as copy, copy.begin() as rows,
        closing(redis.Redis.from_url(url)) as client, client.pipeline(transaction=False) as pipeline,
    ):  # fmt: skip
        for place, (key, value) in enumerate(rows.cursor(), 1):
            pipeline.set(key, value)
            if place % 1_000 == 0:
                pipeline.execute()
        pipeline.execute()


def measure_rate(session: Session, server: Server, store: str, rate: int) -> Figures:
    """Return the latency at a rate, and the share of the answers that do not count their own payment for sure."""
    session.tell(f"features: recorded requests on {store}, {rate:,}/s")
    seconds = session.pick(SECONDS, 1.0)
    before = count_fates(server)
    report = run_load(LoadPlan(server.url, payments(session.bodies, rate, seconds), rate=rate, duration_s=seconds,
                               budget_ns=BUDGET_NS))  # fmt: skip
    after = count_fates(server)
    fates = {name: count - before.get(name, 0) for name, count in after.items()}
    return summarize(session, f"recorded requests on {store}, {rate:,}/s", report, fates)


def summarize(session: Session, what: str, report: LoadReport, fates: dict[str, int]) -> Figures:
    """Return the figures of a load. fates: of its payments, by name, and how many answers were `lost`.

    Raises BenchError where nothing was answered well, or an event was refused: that answer was a cheap one.
    """
    if report.ok is None:
        raise BenchError(f"features: {what}: no answer was good: {report.statuses}")
    if refused := {name: fates[name] for name in REFUSED if fates.get(name)}:
        raise BenchError(f"features: {what}: the payments were refused as events: {refused}")
    if bad := report.shots - report.ok.count:
        session.notes.append(f"features: {what}: {bad:,} of {report.shots:,} were not answered well.")
    if not report.valid:
        session.notes.append(f"features: {what}: {'; '.join(report.reasons)}")
    return {
        "rate": round(report.plan.rate),
        "p50_ms": round(report.ok.p50_ns / 1e6, 3),
        "p99_ms": round(report.ok.p99_ns / 1e6, 3),
        "lost_share": round(fates.get("lost", 0) / report.ok.count, 6),
    }


def payments(bodies: Path, rate: int, seconds: float) -> list[bytes]:
    """Return payments for a load that begins now, each with an id of its own and the time at which it is due.

    Their customers, terminals and amounts are the example's, in their order. The load begins a little later than now,
    so that no time is in the future.
    """
    begin, count = datetime.now(UTC), round(rate * seconds)
    asked = []
    for number, line in enumerate(islice(cycle(bodies.read_bytes().splitlines()), count)):
        moment = begin + timedelta(seconds=number / rate)
        fresh = {"transaction_id": f"{begin.timestamp():.6f}-{number}", "time": moment.isoformat()}
        asked.append(json.dumps(json.loads(line) | fresh).encode())
    return asked


def count_fates(server: Server) -> dict[str, int]:
    """Return how many payments have had each fate so far, and how many answers said that theirs was `lost`."""
    with urllib.request.urlopen(f"{server.admin}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    lost = re.findall(r'^tailrace_degraded_total\{pipeline="fraud",reason="event_lost"\} (\S+)$', text, re.MULTILINE)
    fates = re.findall(r'^tailrace_events_total\{fate="(\w+)",stream="payments"\} (\S+)$', text, re.MULTILINE)
    if not lost or not fates:
        raise BenchError("features: the server's metrics say nothing of events")
    return {name: round(float(count)) for name, count in [*fates, ("lost", lost[0])]}
