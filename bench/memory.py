"""The memory of a worker over three million predictions, in batches of random sizes."""

from __future__ import annotations

import random
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from figures import Figures
from machine import SERVER_CORE
from part import Session
from peers import WORKPLACE, start_tailrace
from tailrace.loadtest.processes import rss_mb

PREDICTIONS: Final = 3_000_000
STEPS: Final = 6
ROWS_MAX: Final = 100
BODIES: Final = 200
STEP_S: Final = 1.0


def measure_memory(session: Session) -> Figures:
    """Return how many MB a worker grows over a million predictions, by a line through what it has after each part."""
    bodies, per_body = write_bodies(session.bodies)
    wanted = session.pick(PREDICTIONS, PREDICTIONS // 20)
    found: list[tuple[float, float]] = []
    with ExitStack() as stack:
        server = start_tailrace(stack, cores={SERVER_CORE}, name="tailrace-memory")
        session.replay.plain(server.url, bodies, STEP_S, connections=8)  # the collector has had its say
        predicted = 0.0
        while predicted < wanted:
            session.tell(f"inference: memory after {predicted / 1e6:.1f} million predictions")
            run = session.replay.plain(server.url, bodies, STEP_S, connections=8)
            predicted += run.rps * STEP_S * per_body
            found.append((predicted / 1e6, max(map(rss_mb, server.worker_pids()))))
    return {"rss_slope_mb_per_million": round(slope(found), 2), "rss_after_mb": round(found[-1][1], 1)}


def slope(points: list[tuple[float, float]]) -> float:
    """Return the slope of the line through some points, by least squares; 0 of one."""
    mean_x, mean_y = (sum(column) / len(points) for column in zip(*points, strict=True))
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0


def write_bodies(single: Path) -> tuple[Path, float]:
    """Write arrays of 1 to 100 payments each; return the file, and how many one has on average."""
    payments = single.read_text().splitlines()
    draw = random.Random(5)
    sizes = [draw.randint(1, ROWS_MAX) for _ in range(BODIES)]
    path = WORKPLACE / "arrays.jsonl"
    path.write_text("".join("[" + ",".join(draw.choices(payments, k=size)) + "]\n" for size in sizes))
    return path, sum(sizes) / len(sizes)
