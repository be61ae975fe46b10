"""Make what the fraud example serves: profiles, events, trained and packaged models, a filled store, a replay.

    python examples/fraud/prepare.py                       simulated transactions
    python examples/fraud/prepare.py --data FILE.parquet   the Handbook's, or your own in its columns

Everything lands in build/fraud. What is there already, made today from the same inputs, is kept.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray
from profiles import DAYS_MIN, HELD_BACK_DAYS, RECENT_DAYS, VIEWS, History, load_history
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from simulate import World, simulate
from training import TARGET, feature_columns, to_matrix, train

import tailrace as tr
from tailrace.compile.loading import load_pipelines
from tailrace.errors import TailraceError
from tailrace.inference.manifest import FORMAT_VERSION
from tailrace.pipeline import Pipeline

if TYPE_CHECKING:
    import lightgbm
    import pyarrow as pa

HERE: Final = Path(__file__).resolve().parent
BUILD: Final = HERE.parents[1] / "build" / "fraud"
STAMP: Final = BUILD / "prepared.json"
TAILRACE: Final = str(Path(sys.executable).with_name("tailrace"))
STEPS: Final = ("transactions", "profiles", "events", "model", "nightly model", "store", "replay")
INPUTS: Final = ("simulate.py", "profiles.py", "training.py", "prepare.py", "pipeline.py", "nightly.py", "*.sql")

Advance = Callable[[str], None]
"""Told the name of each step as it begins."""


def prepare(data: Path | None, world: World, advance: Advance) -> dict[str, Any]:
    """Make everything anew and return what was made, as it stands in the stamp."""
    (pipeline,), (nightly,) = (load_pipelines(HERE / name) for name in ("pipeline.py", "nightly.py"))
    BUILD.mkdir(parents=True, exist_ok=True)
    STAMP.unlink(missing_ok=True)
    advance("transactions")
    history = load_history(data or write_transactions(world), first_held_back())
    advance("profiles")
    profiles = {
        entity: history.write_profiles(entity, BUILD / f"{entity}_profile.parquet") for entity in VIEWS.values()
    }
    advance("events")
    history.write_events(BUILD / "payments", BUILD / "labels")
    advance("model")
    metrics, scores = train_and_package(pipeline, history)
    advance("nightly model")
    nightly_metrics, nightly_scores = train_and_package(nightly, history)
    rows = history.held_back_rows()
    advance("store")
    fill_store()
    advance("replay")
    write_replay(rows, scores, find_stopped(nightly, rows, nightly_scores))
    return {
        "cutoff": str(history.cutoff),
        "shift_days": history.shift_days,
        "profiles": profiles,
        "metrics": metrics,
        "nightly_metrics": nightly_metrics,
    }


def first_held_back() -> date:
    """Return the day that is held back, yesterday: no event comes from the future."""
    return datetime.now(UTC).date() - timedelta(days=HELD_BACK_DAYS)


def train_and_package(pipeline: Pipeline, history: History) -> tuple[dict[str, Any], NDArray[np.float64]]:
    """Train the model of a pipeline and package it; return its metrics on the rows held back, and its scores there."""
    rows, held_back = (tr.dataset(pipeline, each) for each in (history.training_rows(), history.held_back_rows()))
    columns, target = feature_columns(rows), rows[TARGET].to_numpy()
    if not target.any() or target.all():
        raise TailraceError("the training rows are all of one class", where="training", next="give a longer history")
    model = train(columns, target)
    columns = feature_columns(held_back)
    metrics = {"features": len(columns), "rows_trained": len(target), "positives_trained": int(target.sum())}
    metrics = package_model(pipeline, model, columns, held_back[TARGET].to_numpy(), metrics)
    return metrics, np.asarray(model.predict(to_matrix(columns)))


def find_stopped(pipeline: Pipeline, rows: pa.Table, scores: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which payments a pipeline of these scores would not have allowed, by its own bands and rule."""
    bands, (rule,) = pipeline.decision, pipeline.rules
    request = SimpleNamespace(amount=rows["amount"].to_numpy())
    return (scores >= bands.edges[bands.labels.index("review")]) & ~rule.when(request)


def write_transactions(world: World) -> Path:
    """Simulate, and return the file."""
    import pyarrow.parquet as pq

    path = BUILD / "transactions.parquet"
    pq.write_table(simulate(world), path, compression="zstd")
    return path


def package_model(
    pipeline: Pipeline,
    model: lightgbm.Booster,
    columns: dict[str, NDArray[Any]],
    target: NDArray[Any],
    metrics: dict[str, int],
) -> dict[str, Any]:
    """Turn the model into a model directory, and return its metrics on these columns, which it was not trained on."""
    import pyarrow as pa

    from tailrace.release.package import package

    table = pa.table({name: values.astype(np.float32) for name, values in columns.items()} | {TARGET: target})
    out = pipeline.model.directory(pipeline.base_dir)
    report = package(
        model, table, name=pipeline.model.name, out=out, target=TARGET, metrics=metrics, overwrite=True, explain=True
    )
    return dict(report.manifest.metrics)


def fill_store() -> None:
    """Write what had come by the cut-off into the online stores, which are made anew: profiles, and recent events."""
    for name in ("store", "nightly_store"):
        shutil.rmtree(BUILD / name, ignore_errors=True)
    file = str(HERE / "pipeline.py")
    run_tailrace("materialize", file)
    run_tailrace("materialize", str(HERE / "nightly.py"))
    for stream in ("payments", "labels"):
        run_tailrace("ingest", file, "--stream", stream, "--from", str(BUILD / stream / "recent.parquet"))


def run_tailrace(*arguments: str) -> None:
    """Run the command as a user would. Raises TailraceError with what it says where it fails."""
    done = subprocess.run([TAILRACE, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise TailraceError(done.stderr.strip(), where=f"tailrace {' '.join(arguments)}", next="see above")


def write_replay(rows: pa.Table, scores: NDArray[np.float64], nightly_stopped: NDArray[np.bool_]) -> None:
    """Write the held-back transactions as request bodies, and beside them what the bodies do not say.

    scores: of the pipeline that is served. nightly_stopped: what the one of last night's profiles would have stopped.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with (BUILD / "replay.jsonl").open("w") as file:
        names = ("transaction_id", "customer_id", "terminal_id", "amount")
        columns = [rows[name].to_pylist() for name in names]
        times = np.datetime_as_string(rows["time"].to_numpy(), unit="s")
        for *values, moment in zip(*columns, times, strict=True):
            body = dict(zip(names, values, strict=True)) | {"time": f"{moment}Z"}
            file.write(json.dumps(body, separators=(",", ":")) + "\n")
    known = rows.select(["transaction_id", "customer_id", "time", "amount", TARGET])
    for name, column in (("score", scores), ("nightly_stopped", nightly_stopped)):
        known = known.append_column(name, pa.array(column))
    pq.write_table(known, BUILD / "replay_labels.parquet")


def fingerprint_of(data: Path | None, world: World) -> str:
    """Return what the result depends on, as one text: the day, the inputs, this example's code."""
    parts = [str(datetime.now(UTC).date()), version("tailrace"), version("lightgbm"), str(FORMAT_VERSION)]
    if data is None:
        parts.append(repr(asdict(world) | {"start": ""}))
    elif data.is_file():
        parts += [str(data.resolve()), str(data.stat().st_size), str(data.stat().st_mtime_ns)]
    files = sorted(path for pattern in INPUTS for path in HERE.glob(pattern))
    parts += [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def read_stamp(fingerprint: str) -> dict[str, Any] | None:
    """Return what was made before from the same inputs; None if anything of it is missing."""
    names = (
        "model/manifest.json",
        "nightly/manifest.json",
        "store",
        "nightly_store",
        "labels",
        "replay.jsonl",
        "replay_labels.parquet",
    )
    made = [BUILD / name for name in names]
    if not STAMP.is_file() or not all(path.exists() for path in made):
        return None
    stamp = json.loads(STAMP.read_text())
    return stamp if stamp["fingerprint"] == fingerprint else None


def prepare_once(data: Path | None, world: World, *, force: bool = False) -> tuple[dict[str, Any], bool]:
    """Make everything, unless it is there from the same inputs. Returns what there is, and whether it was made now."""
    fingerprint = fingerprint_of(data, world)
    found = None if force else read_stamp(fingerprint)
    if found is not None:
        return found, False
    began_s = time.perf_counter()
    layout = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*layout, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("preparing", total=len(STEPS), completed=-1)

        def advance(step: str) -> None:
            progress.update(task, description=f"preparing: {step:14}", advance=1)

        stamp = prepare(data, world, advance)
    stamp |= {"fingerprint": fingerprint, "took_s": round(time.perf_counter() - began_s, 1)}
    STAMP.write_text(json.dumps(stamp, indent=1) + "\n")
    return stamp, True


def show(stamp: dict[str, Any], *, is_new: bool, is_simulated: bool) -> None:
    """Print what there is, for people."""
    console = Console(highlight=False)
    cutoff, metrics, nightly = date.fromisoformat(stamp["cutoff"]), stamp["metrics"], stamp["nightly_metrics"]
    source = "simulated" if is_simulated else f"moved by {stamp['shift_days'] // 7} weeks (weekday and hour kept)"
    lines = {
        "transactions": f"{source}; held back: those of {cutoff}",
        "store": f"{stamp['profiles']['customer']:,} customers, {stamp['profiles']['terminal']:,} terminals as of "
        f"{cutoff} 00:00 UTC, and the events of {RECENT_DAYS} days",
        "model": f"200 trees, {metrics['features']} features, learned from {metrics['rows_trained']:,} payments, "
        f"{metrics['positives_trained']:,} fraudulent",
        "held back": f"{metrics['rows']:,} payments, {metrics['positives']:,} fraudulent: "
        f"AUC {metrics['roc_auc']:.3f}, average precision {metrics['average_precision']:.3f}",
        "on profiles": f"{nightly['features']} features, those of last night: AUC {nightly['roc_auc']:.3f}, average "
        f"precision {nightly['average_precision']:.3f}",
    }
    console.print(f"[bold]Prepared in {stamp['took_s']} s[/]" if is_new else "[bold]Prepared before[/] (--force anew)")
    for name, line in lines.items():
        console.print(f"  [dim]{name:13}[/] {line}", soft_wrap=True)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what to prepare from."""
    parser.add_argument("--data", type=Path, help="a Parquet file of transactions; default: simulate them")
    parser.add_argument("--force", action="store_true", help="make everything anew")
    parser.add_argument("--customers", type=int, default=World().customers, help="simulated; default: %(default)s")
    parser.add_argument("--terminals", type=int, default=World().terminals, help="simulated; default: %(default)s")
    parser.add_argument(
        "--days", type=int, default=World().days, help=f"simulated, {DAYS_MIN} or more; default: %(default)s"
    )


def world_of(options: argparse.Namespace) -> World:
    """Return the world to simulate: its last day is yesterday."""
    start = first_held_back() - timedelta(days=options.days - HELD_BACK_DAYS)
    return World(options.customers, options.terminals, options.days, start)


def main(arguments: list[str]) -> int:
    """Prepare and tell."""
    parser = argparse.ArgumentParser(
        description="Prepare the fraud example under build/fraud: profiles, model, store, replay.",
        epilog="then: .venv/bin/tailrace serve examples/fraud/pipeline.py --port 8080 --admin-port 8081",
    )
    add_options(parser)
    options = parser.parse_args(arguments)
    try:
        stamp, is_new = prepare_once(options.data, world_of(options), force=options.force)
    except TailraceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    show(stamp, is_new=is_new, is_simulated=options.data is None)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
