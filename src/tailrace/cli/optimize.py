"""`tailrace optimize`: other forms of a model, measured; the fastest that is as good becomes a model directory."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer

from tailrace.cli import optimize_options as given
from tailrace.cli.durations import duration_ns
from tailrace.errors import SetupError

if TYPE_CHECKING:
    from tailrace.inference.manifest import Manifest
    from tailrace.offline.optimize.optimizer import OnStep, Optimised
    from tailrace.release.registry.registry import Registry

NOTHING_BETTER: Final = 3
"""The exit code where the model stays as it is."""
PARENTS_LOOKED_AT: Final = 20
"""Versions of the registry, the latest first."""


def optimize(  # noqa: PLR0917 - one parameter an option
    model: given.Model,
    data: given.Data,
    budget: given.Budget,
    metric: given.MetricName = "auc",
    tolerance: given.Tolerance = 0.001,
    score_change: given.ScoreChange = None,
    target: given.Target = None,
    batches: given.Batches = "1,16,64",
    threads: given.Threads = 1,
    seconds: given.Seconds = 3.0,
    limit: given.Limit = "5m",
    memory_mb: given.MemoryMb = 8_192,
    work: given.Work = None,
    picture: given.Picture = None,
    out: given.Out = None,
    name: given.Name = None,
    register: given.Register = None,
    registry: given.Registry = None,
    allow_pickle: given.AllowPickle = False,
    overwrite: given.Overwrite = False,
    as_json: given.AsJson = False,
) -> None:
    """Try other forms of a model and take the fastest that is as good.

    Tried are graphs that ONNX Runtime has optimised, int8 and float16, fewer trees and shorter ones, whatever else
    computes trees here, threads and memory. Each is measured in a process of its own, by turns with the model as
    packaged. A quarter of the rows calibrates and is searched with; the rest judges. Ends with 3, and writes no model,
    where nothing is faster within the tolerance.

    For example:

        tailrace optimize model.txt --data held_back.parquet --budget 20ms --out models/fraud
    """
    from tailrace.offline.optimize.optimizer import optimize as optimize_model
    from tailrace.offline.optimize.processes import Limits
    from tailrace.offline.optimize.question import Asked
    from tailrace.release.exchange import check_place

    asked = Asked(
        model, data, metric, tolerance, duration_ns(budget, "--budget"), target, _numbers(batches), threads,
        score_change, seconds, Limits(duration_ns(limit, "--limit") / 1e9, memory_mb), allow_pickle,
    )  # fmt: skip
    if out is not None:
        check_place(out, overwrite=overwrite)
    if register is not None and registry is None:
        raise SetupError("a version goes to a registry", where="--register", next="give --registry too")
    work = work or Path(f"{model.name.removesuffix(model.suffix)}.optimize")
    with _bar() as on_step:
        found = optimize_model(asked, work, on_step)
    drawn = _draw(found, picture or work / "pareto.png")
    place = out or (work / "winner" if register is not None else None)
    _tell(found, drawn, *_keep(found, place, name or register, register, registry), as_json=as_json)
    if found.verdict.winner is None:
        raise typer.Exit(NOTHING_BETTER)


def _keep(
    found: Optimised, place: Path | None, name: str | None, register: str | None, registry: str | None
) -> tuple[Path | None, str | None]:
    """Write the winner where it has a place, and register it; return where it is, and its version."""
    from tailrace.offline.optimize.winner import write_winner

    if found.verdict.winner is None or place is None:
        return None, None
    manifest = write_winner(found, place, name or _own_name(found))
    if register is None or registry is None:
        return place, None
    return place, _register(found, manifest, place, register, registry)


def _tell(found: Optimised, drawn: Path | None, place: Path | None, version: str | None, *, as_json: bool) -> None:
    from tailrace.cli.optimize_report import print_report, to_json

    if as_json:
        print(to_json(found, drawn, place, version))
    else:
        print_report(found, drawn, place, version)


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(each) for each in text.split(","))
    except ValueError:
        raise SetupError(f"{text!r} are no numbers of rows", where="--batches", next="write them as 1,16,64") from None


def _own_name(found: Optimised) -> str:
    from tailrace.inference.manifest import read_manifest

    return read_manifest(found.baseline).name


@contextmanager
def _bar() -> Iterator[OnStep]:
    """Show what is tried just now, on stderr, and only to a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description:<48}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task("package", total=None)
        yield lambda step, done, whole: progress.update(task, description=step[:48], completed=done, total=whole)


def _draw(found: Optimised, path: Path) -> Path | None:
    """Draw the picture; return where, or None where Matplotlib is not installed, which is said."""
    from tailrace.offline.optimize.picture import draw_picture

    try:
        draw_picture(found, path)
    except ImportError:
        print("no picture is drawn: Matplotlib comes with tailrace[package]", file=sys.stderr)
        return None
    return path


def _register(found: Optimised, manifest: Manifest, directory: Path, name: str, url: str) -> str:
    """Make the winner the next version of a model; return its reference, as in fraud@3."""
    from tailrace.cli.models.options import carried, opened
    from tailrace.release.registry.records import Lineage
    from tailrace.release.registry.registering import register

    made = manifest.optimised
    assert made is not None, "the winner says what it was made from"
    registry = opened(url, None, create=True)
    lineage = Lineage(
        parents=_parents(registry, name, found), data=str(found.asked.data), data_sha256=made.data_sha256,
        command=f"tailrace optimize {found.asked.model}: {made.recipe}",
    )  # fmt: skip
    with carried("registering") as on_progress:
        version = register(registry, directory, name, lineage=lineage, on_progress=on_progress)
    return version.record.reference


def _parents(registry: Registry, name: str, found: Optimised) -> dict[str, str]:
    """Return the last version that is the model as packaged, with its digest, where the registry has one."""
    from tailrace.inference.manifest import read_manifest
    from tailrace.release.registry.reference import Reference

    files = read_manifest(found.baseline).files
    for number in sorted(registry.numbers(name), reverse=True)[:PARENTS_LOOKED_AT]:
        try:
            record = registry.resolve(Reference(name, number, None)).record
        except SetupError:  # one that cannot be read, or was deleted meanwhile
            continue
        if all(file in record.files and record.files[file].sha256 == sha256 for file, sha256 in files.items()):
            return {record.reference: record.digest}
    return {}
