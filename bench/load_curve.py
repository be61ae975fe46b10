"""Latency and goodput against offered load, from a tenth of the capacity to three times of it."""

from __future__ import annotations

from statistics import median
from typing import Final

from capacity import BUDGET_MS, PIPELINE, Costly, is_on_time, served_costly, steady_goodput
from figures import Figures
from part import Line, Part, Session
from peers import WORKPLACE
from tailrace.loadtest.report import LoadReport

SHARES: Final = (0.1, 0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.5, 2.0, 3.0)
REPEATS: Final = 3
REPEAT_S: Final = 2.0
PROBE_S: Final = 1.5


def measure(session: Session) -> Figures:
    """Return the capacity, and the medians of each load's repeats; the loads rise within a repeat."""
    repeats = session.pick(REPEATS, 1)
    with served_costly(WORKPLACE) as costly:
        session.tell("load curve: finding the capacity")
        capacity_rps = session.capacity_rps or costly.find_capacity(session.pick(PROBE_S, 0.5))
        reports: dict[float, list[LoadReport]] = {share: [] for share in SHARES}
        for repeat in range(repeats):
            for share, found in reports.items():
                session.tell(f"load curve, {repeat + 1} of {repeats}: {share:.0%} of the capacity")
                found.append(run_share(session, costly, share * capacity_rps, repeat))
    late = sum(not is_on_time(report) for found in reports.values() for report in found)
    if late:
        session.notes.append(f"load curve: {late} of {repeats * len(SHARES)} loads were late themselves.")
    return {
        "load_curve": {
            "pipeline": PIPELINE,
            "budget_ms": BUDGET_MS,
            "arrival": "poisson",
            "capacity_rps": round(capacity_rps),
            "late": late,
            "points": [make_point(share, found) for share, found in reports.items()],
        }
    }


def run_share(session: Session, costly: Costly, rate: float, seed: int) -> LoadReport:
    """Send one load."""
    return costly.run(rate, session.pick(REPEAT_S, 0.5), seed)


def make_point(share: float, reports: list[LoadReport]) -> Figures:
    """Return one point of the curve: medians. The latencies are those of accepted calls; null where none was."""
    p50s_ms = [report.ok.p50_ns / 1e6 for report in reports if report.ok]
    p99s_ms = [report.ok.p99_ns / 1e6 for report in reports if report.ok]
    return {
        "share": share,
        "offered_rps": round(median(report.shots / report.plan.duration_s for report in reports)),
        "goodput_rps": round(median(map(steady_goodput, reports))),
        "refused_share": round(
            median(report.refused_per_s * report.plan.duration_s / report.shots for report in reports), 4
        ),
        "p50_ms": round(median(p50s_ms), 3) if p50s_ms else None,
        "p99_ms": round(median(p99s_ms), 3) if p99s_ms else None,
    }


def lines(figures: Figures) -> list[Line]:
    """Return the lines of the table, one a load."""
    curve = figures["load_curve"]
    return [Line("capacity, answers/s within the budget", curve["capacity_rps"])] + [
        Line(
            f"{point['share']:.0%}: {point['offered_rps']:,}/s offered",
            f"p50 {write_ms(point['p50_ms'])} · p99 {write_ms(point['p99_ms'])} · "
            f"{point['goodput_rps']:>6,}/s in time · {point['refused_share']:>4.0%} refused",
        )
        for point in curve["points"]
    ]


def write_ms(value: float | None) -> str:
    """Return a latency in a column."""
    return "       -" if value is None else f"{value:5.1f} ms"


PART: Final = Part(
    name="load_curve",
    about=f"a heavy model and a budget of {BUDGET_MS} ms, at rising loads",
    caveats=(
        "load curve: open loop, calls arrive at random (Poisson); server and load have a core each; latencies are of "
        "accepted calls, counted from the intended send time.",
    ),
    steps=lambda session: 1 + len(SHARES) * session.pick(REPEATS, 1),
    measure=measure,
    lines=lines,
)
