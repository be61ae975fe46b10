"""The memory of a worker over three million predictions, in batches of random sizes."""

from __future__ import annotations

import json
import random
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from figures import Figures
from heavy_world import MIXED, make_heavy_world
from machine import SERVER_CORE, BenchError
from part import Session
from peers import PIPELINE, WORKPLACE, Server, start_tailrace
from replay import WARM_S
from tailrace.loadtest.processes import rss_mb

BY_TABLES: Final = 1_000_000
BY_ONNX: Final = 2_000_000
"""Predictions; those of the light model cost a fifth."""
ROWS_MAX: Final = 100
BODIES: Final = 200
STEP_S: Final = 0.5
STEPS_MIN: Final = 8
"""A line through fewer points is that of their noise."""


def measure_memory(session: Session) -> Figures:
    """Return how many MB a worker grows over a million predictions, by a line through what it has after each part.

    Of two servers, and the steeper one: the fraud example, whose trees are computed from tables, and a light model in
    ONNX Runtime (heavy_world.py), which plans its memory by the rows of a call.
    """
    session.tell("inference: the models whose memory is looked at")
    make_heavy_world()
    glances = [json.dumps({"f0": number % 7, "f1": number % 11}) for number in range(100)]
    fraud, light = session.bodies.read_text().splitlines(), glances
    slopes: dict[str, float] = {}
    for name, file, pipeline, singles, wanted in (
        ("tables", PIPELINE, "fraud", fraud, BY_TABLES),
        ("onnx", MIXED, "light", light, BY_ONNX),
    ):
        bodies, per_body = write_bodies(singles, name)
        with ExitStack() as stack:
            server = start_tailrace(stack, cores={SERVER_CORE}, file=file, pipeline=pipeline, name=f"tailrace-{name}")
            found = follow(session, server, bodies, per_body, session.pick(wanted, wanted // 20))
            slopes[name] = round(slope(found), 2)
    return {"rss_slope_mb_per_million": max(slopes.values()), "rss_slopes": slopes}


def follow(session: Session, server: Server, bodies: Path, per_body: float, wanted: int) -> list[tuple[float, float]]:
    """Return millions of predictions, and the MB that a worker has after them, until there were so many.

    What is refused is of no matter here. Raises BenchError where everything is.
    """
    found: list[tuple[float, float]] = []
    predicted = 0.0
    while predicted < wanted or len(found) <= STEPS_MIN:
        session.tell(f"inference: memory after {predicted / 1e6:.1f} million predictions of {server.process.name}")
        run = session.replay.plain(server.url, bodies, STEP_S, connections=8, judged=False)
        if not run.rps:
            raise BenchError(f"inference: {server.process.name} answers nothing of {bodies.name}")
        predicted += run.rps * (WARM_S + STEP_S) * per_body
        found.append((predicted / 1e6, max(map(rss_mb, server.worker_pids()))))
    return found[1:]  # what comes first fills caches and pools


def slope(points: list[tuple[float, float]]) -> float:
    """Return the slope of the line through some points, by least squares; 0 of one."""
    mean_x, mean_y = (sum(column) / len(points) for column in zip(*points, strict=True))
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0


def write_bodies(singles: list[str], name: str) -> tuple[Path, float]:
    """Write arrays of 1 to 100 requests each; return the file, and how many one has on average."""
    draw = random.Random(5)
    sizes = [draw.randint(1, ROWS_MAX) for _ in range(BODIES)]
    path = WORKPLACE / f"arrays-{name}.jsonl"
    path.write_text("".join("[" + ",".join(draw.choices(singles, k=size)) + "]\n" for size in sizes))
    return path, sum(sizes) / len(sizes)
