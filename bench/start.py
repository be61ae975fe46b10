"""From the start of `tailrace serve` to its first 200 on /readyz."""

from __future__ import annotations

from contextlib import ExitStack
from statistics import median
from typing import Final

from figures import Figures
from machine import LOAD_CORE, SERVER_CORE
from part import Line, Part, Session
from peers import start_tailrace

STARTS: Final = 3


def measure(session: Session) -> Figures:
    """Return the median of a few starts, each on both cores."""
    return {"ready_s": round(median(start_once(session) for _ in range(session.pick(STARTS, 1))), 3)}


def start_once(session: Session) -> float:
    """Return the seconds of one start."""
    session.tell("start to ready")
    with ExitStack() as stack:
        return start_tailrace(stack, cores={SERVER_CORE, LOAD_CORE}, name="tailrace-start").ready_s


PART: Final = Part(
    name="start",
    about="from a start to the first request served",
    caveats=("start: on both cores, its files read before.",),
    steps=lambda session: session.pick(STARTS, 1),
    measure=measure,
    lines=lambda figures: [Line("start to ready", figures["ready_s"], 3, 1.5, " s")],
)
