"""`tailrace optimize`: other forms of a model, measured; the fastest that is as good becomes a model directory."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import typer

from tailrace.cli import optimize_options as given
from tailrace.cli.durations import duration_ns
from tailrace.cli.progress import progress_bar
from tailrace.errors import RegistryError, SetupError

if TYPE_CHECKING:
    from tailrace.inference.manifest import Manifest
    from tailrace.offline.optimize.optimizer import Optimised
    from tailrace.release.registry.envelope import Signer
    from tailrace.release.registry.registry import Registry

NOTHING_BETTER: Final = 3
"""The exit code where the model stays as it is."""
PARENTS_LOOKED_AT: Final = 20
"""Versions of the registry, the latest first."""


class Registration(NamedTuple):
    """Where the winner becomes a version: the registry and the model's name there, who signs, and what names it."""

    registry: Registry
    name: str
    signer: Signer | None
    aliases: list[str]


class Kept(NamedTuple):
    """Where the winner is, its version, and why an alias does not name that; None where there is none."""

    place: Path | None = None
    version: str | None = None
    fault: RegistryError | None = None


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
    alias: given.Alias = None,
    sign_key: given.SignKey = None,
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
    registration = _registration(register, registry, sign_key, alias)
    work = work or Path(f"{model.name.removesuffix(model.suffix)}.optimize")
    with progress_bar("package", width=48) as on_step:
        found = optimize_model(asked, work, on_step)
    drawn = _draw(found, picture or work / "pareto.png")
    place = out or (work / "winner" if register is not None else None)
    kept = _keep(found, place, name or register, registration)
    _tell(found, drawn, kept, as_json=as_json)
    if kept.fault is not None:
        raise kept.fault
    if found.verdict.winner is None:
        raise typer.Exit(NOTHING_BETTER)


def _registration(
    name: str | None, url: str | None, sign_key: Path | None, aliases: list[str] | None
) -> Registration | None:
    """Return where the winner is registered, None for nowhere; looked at before an hour is spent on what goes there."""
    from tailrace.cli.models.options import check_aliases, opened, signer_of
    from tailrace.release.registry.reference import check_name

    if name is None:
        if aliases:
            raise SetupError("an alias names a version", where="--alias", next="give --register too")
        return None
    if url is None:
        raise SetupError("a version goes to a registry", where="--register", next="give --registry too")
    checked, named, signer = check_name(name), check_aliases(aliases), signer_of(sign_key)
    return Registration(opened(url, None, create=True), checked, signer, named)


def _keep(found: Optimised, place: Path | None, name: str | None, registration: Registration | None) -> Kept:
    """Write the winner where it has a place, and register it."""
    from tailrace.offline.optimize.winner import write_winner

    if found.verdict.winner is None or place is None:
        return Kept()
    manifest = write_winner(found, place, name or _own_name(found))
    if registration is None:
        return Kept(place)
    return Kept(place, *_register(found, manifest, place, registration))


def _tell(found: Optimised, drawn: Path | None, kept: Kept, *, as_json: bool) -> None:
    from tailrace.cli.optimize_report import print_report, to_json

    if as_json:
        print(to_json(found, drawn, kept.place, kept.version))
    else:
        print_report(found, drawn, kept.place, kept.version)


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(each) for each in text.split(","))
    except ValueError:
        raise SetupError(f"{text!r} are no numbers of rows", where="--batches", next="write them as 1,16,64") from None


def _own_name(found: Optimised) -> str:
    from tailrace.inference.model_directory import read_manifest

    return read_manifest(found.baseline).name


def _draw(found: Optimised, path: Path) -> Path | None:
    """Draw the picture; return where, or None where it cannot be, which is said and spoils nothing else."""
    from tailrace.offline.optimize.picture import draw_picture

    try:
        draw_picture(found, path)
    except ImportError:
        print("no picture is drawn: Matplotlib comes with tailrace[package]", file=sys.stderr)
        return None
    except OSError as error:
        print(f"no picture is drawn: {path}: {error.strerror or error}", file=sys.stderr)
        return None
    return path


def _register(
    found: Optimised, manifest: Manifest, directory: Path, to: Registration
) -> tuple[str, RegistryError | None]:
    """Make the winner the next version of a model; return its reference, as in fraud@3, and an alias' fault."""
    from tailrace.cli.models.options import carried, name_version
    from tailrace.release.registry.records import Lineage
    from tailrace.release.registry.registering import register

    made = manifest.optimised
    assert made is not None, "the winner says what it was made from"
    lineage = Lineage(
        parents=_parents(to.registry, to.name, found), data=str(found.asked.data), data_sha256=made.data_sha256,
        command=f"tailrace optimize {found.asked.model}: {made.recipe}",
    )  # fmt: skip
    with carried("registering") as on_progress:
        version = register(to.registry, directory, to.name, lineage=lineage, signer=to.signer, on_progress=on_progress)
    return version.record.reference, name_version(to.registry, to.aliases, version.record)[1]


def _parents(registry: Registry, name: str, found: Optimised) -> dict[str, str]:
    """Return the last version that is the model as packaged, with its digest, where the registry has one.

    Of a model directory its manifest counts too: other settings of the session are another version.
    """
    from tailrace.inference.model_directory import read_manifest
    from tailrace.release.registry.reference import Reference
    from tailrace.release.registry.registering import list_files

    files = read_manifest(found.baseline).files
    if found.asked.model.is_dir():
        files = {name: file.sha256 for name, file in list_files(found.baseline).items()}
    for number in sorted(registry.numbers(name), reverse=True)[:PARENTS_LOOKED_AT]:
        try:
            record = registry.resolve(Reference(name, number, None)).record
        except SetupError:  # one that cannot be read, or was deleted meanwhile
            continue
        if all(file in record.files and record.files[file].sha256 == sha256 for file, sha256 in files.items()):
            return {record.reference: record.digest}
    return {}
