"""Tails under a load that waits for nobody: at 5,000/s, and at a fifth and at four fifths of the capacity."""

from __future__ import annotations

from contextlib import ExitStack
from statistics import median
from typing import Final

from capacity import Costly, is_on_time, served_costly
from figures import Figures
from machine import LOAD_CORE, SERVER_CORE, BenchError
from part import Line, Part, Session
from peers import WORKPLACE, start_tailrace
from tailrace.loadtest.plan import LoadPlan
from tailrace.loadtest.runner import run_load

RATE: Final = 5_000
SECONDS: Final = 10.0
WORKERS: Final = 1
"""On two cores that the load shares; a second worker made the p99 two to three times as long (docs/performance.md)."""
LOW, HIGH = 0.2, 0.8
REPEATS: Final = 7
REPEAT_S: Final = 2.0
"""Many short ones: a shared machine is slow for half a second now and then, and a long one always has such a time."""
PROBE_S: Final = 1.5


def measure(session: Session) -> Figures:
    """Return the figures of both."""
    session.tell(f"open loop at {RATE:,}/s")
    figures = measure_fixed_rate(session)
    session.tell("open loop: finding the capacity")
    with served_costly(WORKPLACE) as costly:
        return {"open_loop": figures | measure_growth(session, costly)}


def measure_fixed_rate(session: Session) -> Figures:
    """Return the tail of the fraud example, server and load on the same two cores."""
    with ExitStack() as stack:
        cores = {SERVER_CORE, LOAD_CORE}
        url = start_tailrace(stack, cores=cores, workers=WORKERS, name="tailrace-open-loop").url
        bodies = session.bodies.read_bytes().splitlines()
        run_load(LoadPlan(url=url, bodies=bodies, rate=RATE, duration_s=1.0))
        report = run_load(LoadPlan(url=url, bodies=bodies, rate=RATE, duration_s=session.pick(SECONDS, 3.0)))
    if report.ok is None:
        raise BenchError(f"open loop: no answer was good: {report.statuses}")
    if not report.valid:
        session.notes.append("[red]The open loop is invalid: the generator itself could not keep its schedule.[/]")
    return {
        "rate": RATE,
        "p50_ms": round(report.ok.p50_ns / 1e6, 3),
        "p99_ms": round(report.ok.p99_ns / 1e6, 3),
        "p999_ms": round(report.ok.p999_ns / 1e6, 3),
        "errors": report.shots - report.ok.count,
        "valid": report.valid,
    }


def measure_growth(session: Session, costly: Costly) -> Figures:
    """Return how much longer the p99 is near the capacity; null where the load itself was late, which is noted."""
    capacity_rps = session.capacity_rps = costly.find_capacity(session.pick(PROBE_S, 0.5))
    p99s_ms: dict[float, list[float]] = {LOW: [], HIGH: []}
    repeats = session.pick(REPEATS, 1)
    for repeat in range(repeats):
        for share, found in p99s_ms.items():
            session.tell(f"open loop, {repeat + 1} of {repeats}: {share:.0%} of the capacity")
            report = costly.run(share * capacity_rps, session.pick(REPEAT_S, 1.0), seed=repeat)
            if report.ok is not None and is_on_time(report):
                found.append(report.ok.p99_ns / 1e6)
    late = sum(repeats - len(found) for found in p99s_ms.values())
    if late:
        session.notes.append(f"open loop: {late} of {2 * repeats} loads near the capacity were late, and do not count.")
    low, high = (median(found) if 2 * len(found) > repeats else None for found in p99s_ms.values())
    return {
        "capacity_rps": round(capacity_rps),
        "p99_at_20_ms": round(low, 3) if low else None,
        "p99_at_80_ms": round(high, 3) if high else None,
        "p99_growth_at_80": round(high / low, 2) if low and high else None,
    }


def lines(figures: Figures) -> list[Line]:
    """Return the lines of the table."""
    loop = figures["open_loop"]
    return [
        Line(f"the fraud example at {loop['rate']:,}/s, p50", loop["p50_ms"], unit=" ms"),
        Line("  p99", loop["p99_ms"], 5, 2, " ms"),
        Line("  p99.9", loop["p999_ms"], 12, 5, " ms"),
        Line("  errors", loop["errors"], 0, 0),
        Line(f"a model of {1e3 / loop['capacity_rps']:.2f} ms a row: its capacity, /s", loop["capacity_rps"]),
        Line("  p99 at 20% of it", loop["p99_at_20_ms"], unit=" ms"),
        Line("  p99 at 80% of it", loop["p99_at_80_ms"], unit=" ms"),
        Line("  the second to the first", loop["p99_growth_at_80"], unit="×"),
    ]


PART: Final = Part(
    name="open_loop",
    about="tails under a load that waits for nobody",
    caveats=(
        f"open loop at {RATE:,}/s: {WORKERS} worker; the load shares both cores with the server; latency counts from "
        "the intended send time.",
        "open loop near the capacity: a heavy model; server and load have a core each, and calls arrive "
        "at random (Poisson), which takes longer to answer than an even pace.",
    ),
    steps=lambda session: 2 + 2 * session.pick(REPEATS, 1),
    measure=measure,
    lines=lines,
)
