"""Rolling restarts behind HAProxy and nginx, under load: how many requests fail."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Final

from figures import Figures
from machine import BenchError
from part import Line, Part, Session
from peers import PIPELINE, WORKPLACE
from rolling import BALANCERS, Pair, count_failed, roll, start_balancer
from tailrace.loadtest.plan import LoadPlan

RATE: Final = 2_000.0
RESTARTS: Final = 10
RESTARTS_QUICK: Final = 2
PRE_DRAIN_S: Final = 5.0
RESTART_S: Final = 11.5
"""More than a restart takes: pre-drain, drain, start, and until the balancer has seen it."""
CONNECTIONS: Final = 128
BUDGET: Final = ('Budget("50ms", request="2ms", features="15ms", inference="20ms", postprocess="3ms", response="2ms")',
                 'Budget("1s")')  # fmt: skip
BUILD: Final = ('"../../build/fraud"', '"../../fraud"')


def measure(session: Session) -> Figures:
    """Return what came of the restarts behind each balancer, one after the other."""
    restarts = session.pick(RESTARTS, RESTARTS_QUICK)
    bodies = session.bodies.read_bytes().splitlines()
    behind: dict[str, Figures] = {}
    for name in BALANCERS:
        session.tell(f"{name}: starting two servers")
        with ExitStack() as stack:
            pair = Pair(write_pipeline(WORKPLACE / name), WORKPLACE / name, PRE_DRAIN_S)
            pair.start(stack)
            url = f"{start_balancer(stack, name, pair)}/v1/pipelines/fraud/predict"
            duration_s = restarts * RESTART_S + 3
            plan = LoadPlan(url, bodies, rate=RATE, duration_s=duration_s, connections=CONNECTIONS, depth_max=1)
            tell = partial(tell_restart, session, name, restarts)
            (report,) = roll(pair, restarts, [plan], tell)
        if report.ok is None:
            raise BenchError(f"{name}: no request was answered; see {pair.folder}")
        behind[name] = {
            "requests": report.shots,
            "failed": count_failed(report),
            "statuses": {str(status): count for status, count in report.statuses.items()},
            "p99_ms": round(report.ok.p99_ns / 1e6, 2),
            "max_ms": round(report.ok.max_ns / 1e6, 1),
        }
    failed = sum(figures["failed"] for figures in behind.values())
    return {"trust": {"balancer_failed": failed, "balancer_restarts": restarts, "balancers": behind}}


def tell_restart(session: Session, name: str, restarts: int, number: int) -> None:
    """Tell of a restart that begins."""
    session.tell(f"{name}: restart {number + 1} of {restarts}")


def write_pipeline(folder: Path) -> Path:
    """Write the fraud example with a budget in which nothing is shed, however busy the machine is."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    declared = PIPELINE.with_name("pipeline.py")
    text = declared.read_text()
    for shown, wanted in (BUDGET, BUILD):
        if shown not in text:
            raise BenchError(f"{declared} does not say {shown}")
        text = text.replace(shown, wanted)
    (folder / declared.name).write_text(text)
    return Path(shutil.copy(PIPELINE, folder))


def lines(figures: Figures) -> list[Line]:
    """Return the lines of the table."""
    trust = figures["trust"]
    told = [Line(f"failed in {trust['balancer_restarts']} restarts behind each", trust["balancer_failed"], 0, 0)]
    for name, behind in trust["balancers"].items():
        told += [
            Line(f"{name}: requests", behind["requests"]),
            Line("  failed", behind["failed"], 0, 0),
            Line("  p99", behind["p99_ms"], unit=" ms"),
            Line("  longest", behind["max_ms"], unit=" ms"),
        ]
    return told


PART: Final = Part(
    name="balancers",
    about=f"rolling restarts of two servers behind a load balancer, {RATE:,.0f} requests/s",
    caveats=(
        "balancers: two servers, the balancer and the load share two cores, and a server that starts takes one for"
        " seconds; so the budget is 1 s, and what fails is lost, not late.",
    ),
    steps=lambda session: len(BALANCERS) * (1 + session.pick(RESTARTS, RESTARTS_QUICK)),
    measure=measure,
    lines=lines,
)
