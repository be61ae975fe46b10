"""What the part `features` serves: events of the fraud example's simulation, a model, and the stores they fill."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from machine import BenchError
from peers import HERE, PREPARED, ROOT, TAILRACE, WORKPLACE

FILE: Final = HERE / "streamed" / "pipeline.py"
WORLD: Final = WORKPLACE / "streamed"
EVENTS: Final = 400_000
BODIES: Final = 5_000
TREES: Final = 200


@dataclass(frozen=True, slots=True)
class Ingested:
    """One run of `tailrace ingest`: events a second, and a second of its CPU."""

    events_per_s: float
    events_per_cpu_s: float


def make_world(events: int) -> Path:
    """Make events, bodies, models and batch rows anew; return the file of bodies."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    shutil.rmtree(WORLD, ignore_errors=True)
    WORLD.mkdir(parents=True)
    table = pq.read_table(PREPARED / "transactions.parquet").sort_by([("TX_DATETIME", "ascending")])
    table = table.slice(0, events + BODIES)
    payments = pa.table(
        {
            "transaction_id": table["TRANSACTION_ID"].cast(pa.int64()),
            "customer_id": table["CUSTOMER_ID"].cast(pa.int64()),
            "terminal_id": table["TERMINAL_ID"].cast(pa.int64()),
            "amount": pa.array(np.round(table["TX_AMOUNT"].to_numpy().astype(np.float64), 2)),
            "time": table["TX_DATETIME"].cast(pa.timestamp("us")),
        }
    )
    pq.write_table(payments.slice(0, events), WORLD / "events.parquet")
    bodies = WORLD / "bodies.jsonl"
    rows = payments.slice(events, BODIES).to_pylist()
    lines = [json.dumps({**row, "time": f"{row['time'].isoformat()}Z"}) for row in rows]
    bodies.write_text("\n".join(lines) + "\n")
    write_models()
    write_profiles(payments)
    run_tailrace("materialize", str(FILE))
    return bodies


def write_models() -> None:
    """Package one model of 200 trees for both pipelines: what it says is of no matter."""
    import lightgbm
    import pyarrow as pa

    from tailrace.compile.loading import load_pipelines
    from tailrace.release.package import package

    random = np.random.default_rng(1)
    matrix = random.random((6_000, 24)).astype(np.float32)
    target = (matrix[:, 0] + matrix[:, 4] + 0.3 * random.random(len(matrix)) > 1.1).astype(int)
    for pipeline in load_pipelines(FILE):
        names = feature_names(pipeline)
        data = lightgbm.Dataset(matrix, target, feature_name=names)
        model = lightgbm.train({"objective": "binary", "num_leaves": 31, "verbose": -1, "num_threads": 2}, data, TREES)
        rows = pa.table(dict(zip(names, matrix[:500].T, strict=True)))
        package(model, rows, name=pipeline.name, out=WORLD / pipeline.name)


def feature_names(pipeline: Any) -> list[str]:
    """Return the model's inputs by canonical name."""
    names: list[str] = []
    for feature in pipeline.features:
        spec = getattr(feature, "spec", None)
        if spec is None:
            names.append(getattr(feature, "name", None) or feature.__name__)
        else:
            names += [f"{spec.name}.{column.name}" for column in spec.columns]
    return names


def write_profiles(payments: Any) -> None:
    """Write batch rows of the same columns for every entity."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for entity in ("customer", "terminal"):
        ids = np.unique(payments[f"{entity}_id"].to_numpy())
        random = np.random.default_rng(2)
        columns: dict[str, Any] = {f"{entity}_id": ids}
        for window in ("5m", "1h", "1d", "7d", "30d"):
            columns[f"{entity}_count_{window}"] = random.integers(0, 60, len(ids))
        for window in ("5m", "1h", "1d", "7d", "30d"):
            columns[f"{entity}_mean_{window}"] = random.random(len(ids)) * 100
        pq.write_table(pa.table(columns), WORLD / f"{entity}s.parquet")


def ingest(store: str | None = None) -> Ingested:
    """Have the events counted by the command, and return how fast that was."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    told = run_tailrace(
        "ingest", str(FILE), "--from", str(WORLD / "events.parquet"), "--json", *(["--store", store] if store else [])
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    report = json.loads(told)
    if report["counted"] < 0.99 * sum(report[name] for name in ("counted", "late", "duplicate", "poison", "future")):
        raise BenchError(f"features: of the events not all were counted: {told}")
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Ingested(report["counted"] / report["seconds"], report["counted"] / cpu_s)


def dataset_rows_per_s() -> float:
    """Return how many rows a second a training set is made with, of all events as labelled requests."""
    events, out = str(WORLD / "events.parquet"), str(WORLD / "training.parquet")
    told = run_tailrace("dataset", str(FILE), "--pipeline", "stream", "--requests", events, "--out", out, "--json")
    report = json.loads(told)
    return float(report["rows"] / report["seconds"])


def bytes_per_entity() -> float:
    """Return the mean size of a stored state of the customer's view."""
    import lmdb

    from tailrace.compile.loading import load_pipelines
    from tailrace.features.keys import KeyFormat, row_name

    spec = next(view.spec for each in load_pipelines(FILE) for view in each.views if view.__name__ == "CustomerWindows")
    keys = KeyFormat(spec.entity.name, row_name(spec.name, spec.codec().schema_id))
    sizes = []
    with lmdb.open(str(WORLD / "store"), readonly=True, lock=False, max_readers=1) as store, store.begin() as reading:
        for key, value in reading.cursor():
            if key.startswith(keys.begin) and key.endswith(keys.end):
                sizes.append(len(value))
    return float(np.mean(sizes))


def run_tailrace(*arguments: str) -> str:
    """Run a command of Tailrace to its end; return what it prints."""
    done = subprocess.run([TAILRACE, *arguments], capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        raise BenchError(f"tailrace {' '.join(arguments)}:\n{done.stdout}{done.stderr}")
    return done.stdout
