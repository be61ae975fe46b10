"""What a request costs, counted rather than timed: the instructions that Python interprets (tests/instructions.py)."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Final

from figures import Figures
from machine import BenchError
from part import Line, Part, Session
from peers import ROOT

PYTHON: Final = (3, 11)


def measure(session: Session) -> Figures:
    """Return the counts; null, which is noted, for a Python that compiles to other instructions."""
    session.tell("counting instructions")
    if sys.version_info[:2] != PYTHON:
        session.notes.append("counts: only Python 3.11's are comparable, so none are told.")
        return {"counts": {"request_instructions": None, "batch_instructions": None}}
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "instructions.py")], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise BenchError(f"tests/instructions.py failed:\n{done.stdout}{done.stderr}")
    counts = json.loads(done.stdout)
    return {
        "counts": {
            "request_instructions": round(counts["request"], 1),
            "batch_instructions": round(counts["batch"]),
        }
    }


def lines(figures: Figures) -> list[Line]:
    """Return the lines of the table."""
    return [
        Line("of a request, beside others", figures["counts"]["request_instructions"]),
        Line("of a batch, beside its requests'", figures["counts"]["batch_instructions"]),
    ]


PART: Final = Part(
    name="counts",
    about="instructions that Python interprets",
    caveats=("counts: of the payment pipeline of the tests, whose view has a text; what C does is not in them.",),
    steps=lambda session: 1,
    measure=measure,
    lines=lines,
)
