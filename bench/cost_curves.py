"""What a request costs, in CPU of a full server, against the number of its windows and the number of its entities."""

from __future__ import annotations

import json
import re
import shutil
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np

from answers import check_whole
from constant_model import write_constant_model
from figures import Figures
from machine import SERVER_CORE, BenchError
from part import Session
from peers import HERE, WORKPLACE, Server, start_tailrace
from streamed_world import WORLD, feature_names, run_tailrace
from tailrace.compile.loading import load_pipelines

FILE: Final = HERE / "curved" / "pipeline.py"
FOLDER: Final = WORKPLACE / "curved"
WINDOWS: Final = (1, 5, 10, 20, 50)
"""Pipelines of so many windows, and of so many columns, are in the file."""
ENTITIES: Final = (1, 10, 50, 100, 200)
KINDS: Final = ("stream", "batch")
EVENTS: Final = 100_000
BODIES: Final = 1_000
ROUNDS: Final = 2
SECONDS: Final = 0.4


def measure_costs(session: Session) -> Figures:
    """Return, of each number of windows and of entities, the µs that a request takes; beside it with batch views."""
    session.tell("features: events for the cost of windows")
    rows = make_world(session.pick(EVENTS, 20_000))
    with ExitStack() as stack:
        server = start_tailrace(stack, cores={SERVER_CORE}, file=FILE, pipeline="stream_1", name="tailrace-curved")
        runs = [(f"{kind}_{count}", write_bodies(rows, 0)) for count in WINDOWS for kind in KINDS]
        runs += [(f"{kind}_many", write_bodies(rows, count)) for count in ENTITIES for kind in KINDS]
        costs_us: list[list[float]] = [[] for _ in runs]
        for number in range(session.pick(ROUNDS, 1)):
            for (pipeline, bodies), found in zip(runs, costs_us, strict=True):
                session.tell(f"features: cost of {pipeline} with {bodies.stem}, {number + 1}")
                found.append(measure_cost(session, server, pipeline, bodies))
    told = [round(median(found), 2) for found in costs_us]
    windows, entities = told[: len(WINDOWS) * 2], told[len(WINDOWS) * 2 :]
    return {
        "cost_windows": points(WINDOWS, windows[::2]),
        "cost_windows_batch": points(WINDOWS, windows[1::2]),
        "cost_entities": points(ENTITIES, entities[::2]),
        "cost_entities_batch": points(ENTITIES, entities[1::2]),
    }


def steps_of_costs(session: Session) -> int:
    """Return how often it tells of a step."""
    return 1 + len(KINDS) * (len(WINDOWS) + len(ENTITIES)) * session.pick(ROUNDS, 1)


def points(numbers: Sequence[int], costs_us: Sequence[float]) -> list[list[float]]:
    """Return a curve as the file has it: pairs of a number and the µs."""
    return [[number, cost_us] for number, cost_us in zip(numbers, costs_us, strict=True)]


def make_world(events: int) -> list[dict[str, Any]]:
    """Make models and batch rows, count the last events, and return payments of right behind them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    table = pq.read_table(WORLD / "events.parquet")
    table = table.rename_columns(["number", "customer", "terminal", "amount", "time"])
    table = table.slice(max(0, len(table) - events - BODIES))
    pq.write_table(table.slice(0, len(table) - BODIES).drop_columns(["terminal"]), FOLDER / "events.parquet")
    customers = np.unique(table["customer"].to_numpy())
    columns = {f"count_{place}": np.full(len(customers), place) for place in range(max(WINDOWS))}
    pq.write_table(pa.table({"customer": customers, **columns}), FOLDER / "customers.parquet")
    for view, names in {each.views[0].__name__: feature_names(each) for each in load_pipelines(FILE)}.items():
        write_constant_model(names, FOLDER / view)
    run_tailrace("materialize", str(FILE))
    run_tailrace("ingest", str(FILE), "--from", str(FOLDER / "events.parquet"))
    rows: list[dict[str, Any]] = table.slice(len(table) - BODIES).to_pylist()
    return rows


def write_bodies(rows: Sequence[dict[str, Any]], entities: int) -> Path:
    """Write requests of these payments' customers, of so many at once, each another one; 0: of one that is no list."""
    customers = sorted({row["customer"] for row in rows})
    if entities > len(customers):
        raise BenchError(f"features: there are {len(customers)} customers, and {entities} are to be asked for at once")
    path = FOLDER / (f"{entities}-entities.jsonl" if entities else "one-entity.jsonl")
    with path.open("w") as out:
        for place, row in enumerate(rows):
            asked = [customers[(place + step) % len(customers)] for step in range(entities)]
            body = {"customer": asked or row["customer"], "time": f"{row['time'].isoformat()}Z"}
            out.write(f"{json.dumps(body)}\n")
    return path


def measure_cost(session: Session, server: Server, pipeline: str, bodies: Path) -> float:
    """Return the CPU of the server for each request of one load, in µs."""
    url = server.url.replace("/stream_1/", f"/{pipeline}/")
    check_whole(url, bodies.read_bytes().splitlines()[0])
    answered, cpu_s = count_answers(server, pipeline), server.process.cpu_s()
    session.replay.plain(url, bodies, SECONDS)
    return (server.process.cpu_s() - cpu_s) / (count_answers(server, pipeline) - answered) * 1e6


def count_answers(server: Server, pipeline: str) -> float:
    """Return how many calls of a pipeline the server has answered well so far."""
    with urllib.request.urlopen(f"{server.admin}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    found = re.findall(rf'^tailrace_requests_total{{code="200",pipeline="{pipeline}",.*}} (\S+)$', text, re.MULTILINE)
    return sum(map(float, found))
