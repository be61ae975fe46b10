"""How much hostile callers move the tail of their neighbours: the same load with them and without, in turns."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from tempfile import mkdtemp
from typing import Any, Final
from urllib.parse import urlsplit

from figures import Figures
from machine import LOAD_CORE, SERVER_CORE, BenchError, on_core
from part import Line, Part, Session
from peers import start_tailrace
from tailrace.loadtest.plan import LoadPlan
from tailrace.loadtest.runner import run_load
from tailrace.server.key_file import changing, make_key

SENDER: Final = Path(__file__).parent / "senders" / "send_hostile.py"
KINDS: Final = ("keys", "heads", "smuggle", "drips")
ROUNDS: Final = 5
RATE: Final = 500.0
SECONDS: Final = 1.0
SETTLED_S: Final = 0.3
SHED_SHARE_MAX: Final = 0.1
"""Of the neighbours' calls, on a machine on which others are at work too."""


@contextmanager
def sending(kind: str, url: str) -> Iterator[None]:
    """Have hostile callers at work."""
    place = urlsplit(url)
    command = [sys.executable, str(SENDER), kind, place.hostname or "", str(place.port), place.path]
    sender = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert sender.stdout is not None
        if not sender.stdout.readline():
            raise BenchError(f"front_door: the sender of {kind} does not begin")
        time.sleep(SETTLED_S)
        yield
        if sender.poll() is not None:
            raise BenchError(f"front_door: the sender of {kind} has ended")
    finally:
        sender.kill()
        sender.wait()


def measure(session: Session) -> Figures:
    """Return the p99 of the neighbours of each kind, and without; medians of the rounds."""
    p99s_ms: dict[str, list[float]] = {kind: [] for kind in ("quiet", *KINDS)}
    with ExitStack() as stack:
        session.tell("front door: starting a server with keys")
        file = Path(mkdtemp(prefix="tailrace-")) / "keys.json"
        secret, key = make_key("caller", ("pipelines/fraud",))
        with changing(file, create=True) as known:
            known.append(key)
        server = start_tailrace(stack, cores={SERVER_CORE}, name="tailrace-hostile", options=("--keys", str(file)))
        with session.bodies.open("rb") as opened:
            bodies = [next(opened).rstrip() for _ in range(500)]
        headers = [("X-API-Key", secret)]
        plan = LoadPlan(server.url, bodies, rate=RATE, duration_s=SECONDS, headers=headers, connections=16)
        stack.enter_context(on_core(LOAD_CORE))
        run_load(plan)  # warms up
        rounds = session.pick(ROUNDS, 1)
        for number in range(rounds):
            session.tell(f"front door, hostile callers, {number + 1} of {rounds}")
            for kind, found in p99s_ms.items():
                with ExitStack() as attack:
                    if kind != "quiet":
                        attack.enter_context(sending(kind, server.url))
                    report = run_load(plan)
                if report.ok is None or report.ok.count < (1 - SHED_SHARE_MAX) * report.shots:
                    raise BenchError(f"front_door: beside {kind} neighbours are not answered: {report.statuses}")
                found.append(report.ok.p99_ns / 1e6)
                time.sleep(SETTLED_S)
    quiet = p99s_ms.pop("quiet")
    moved = {kind: [one - other for one, other in zip(found, quiet, strict=True)] for kind, found in p99s_ms.items()}
    return {
        "front_door": {
            "hostile_quiet_p99_ms": round(median(quiet), 2),
            **{f"hostile_{kind}_p99_ms": round(median(found), 2) for kind, found in p99s_ms.items()},
            "hostile_moved_ms": round(max(median(each) for each in moved.values()), 2),
        }
    }


def lines(figures: Figures) -> list[Line]:
    """Return the lines of the table."""
    door: Any = figures["front_door"]
    quiet = door["hostile_quiet_p99_ms"]
    return [
        Line(
            "p99 beside hostile callers, at most further", door["hostile_moved_ms"], max(0.5, 0.2 * quiet), unit=" ms"
        ),
        Line("  without any", quiet, unit=" ms"),
        Line("  beside 10,000 wrong keys a second", door["hostile_keys_p99_ms"], unit=" ms"),
        Line("  beside 1,000 heads over the limit a second", door["hostile_heads_p99_ms"], unit=" ms"),
        Line("  beside 1,000 heads with unclear bounds a second", door["hostile_smuggle_p99_ms"], unit=" ms"),
        Line("  beside 1,000 connections that drip", door["hostile_drips_p99_ms"], unit=" ms"),
    ]


PART: Final = Part(
    name="front_door_hostile",
    about=f"the p99 of {RATE:,.0f} requests/s beside callers that do harm, on one worker",
    caveats=("front_door_hostile: who does the harm shares the core of the load, with the lowest priority there.",),
    steps=lambda session: 1 + session.pick(ROUNDS, 1),
    measure=measure,
    lines=lines,
)
