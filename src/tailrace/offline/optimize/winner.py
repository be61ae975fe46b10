"""The winner as a model directory of its own, which says what it was made from."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import numpy as np

from tailrace.errors import ModelPackageError
from tailrace.inference.loading import load_model
from tailrace.inference.manifest import MANIFEST_FILE, Manifest, Optimisation, encode_manifest
from tailrace.inference.model_directory import file_sha256, read_manifest
from tailrace.inference.packaged import PackagedModel
from tailrace.offline.optimize.optimizer import Optimised
from tailrace.offline.optimize.verdict import loss_bounds
from tailrace.release.exchange import drafted, written
from tailrace.release.metrics import measure_quality
from tailrace.release.original import load_original
from tailrace.release.package import check_name
from tailrace.release.profile import profile_model
from tailrace.release.rows import read_rows
from tailrace.release.table import spread_rows


def write_winner(found: Optimised, out: Path, name: str) -> Manifest:
    """Write the winner as the directory `out`, which appears whole; return its manifest.

    Its metrics are those of the rows that judged, its profile that of all rows of the data. Raises ModelPackageError
    where there is no winner, for a name that no model can have, or where what is written does not load.
    """
    if found.directory is None:
        raise ModelPackageError("there is no winner to write", where=str(out), next=found.verdict.why)
    check_name(name)
    with written(out), drafted(out) as draft:
        made = read_manifest(found.directory)
        for file in made.files:
            shutil.copyfile(found.directory / file, draft / file)
        manifest = _describe(found, made, name, load_model(found.directory))
        (draft / MANIFEST_FILE).write_bytes(encode_manifest(manifest))
        load_model(draft)
    return manifest


def _describe(found: Optimised, made: Manifest, name: str, model: PackagedModel) -> Manifest:
    """Return the manifest of the winner: metrics, profile and the comparison with the original are its own."""
    judges = found.evidence.part(judges=True)
    scores = model.predict(judges.feeds)
    metrics = measure_quality(scores, np.array(judges.outcomes, object), found.metric.classes)
    table = spread_rows(found.table, len(found.evidence.outcomes))
    profiled = scores if table.num_rows != len(found.evidence.outcomes) else model.predict(found.evidence.feeds)
    return msgspec.structs.replace(
        made, name=name, metrics=metrics, profile=profile_model(made.signature, table, profiled),
        source=msgspec.structs.replace(made.source, **_compare_original(found, model)),
        optimised=_lineage(found, read_manifest(found.baseline), len(judges.outcomes)),
    )  # fmt: skip


def _lineage(found: Optimised, parent: Manifest, rows: int) -> Optimisation:
    winner = found.verdict.winner
    assert winner is not None, "there is a winner to describe"
    timing = winner.timings[0]
    loss_low, loss_high = loss_bounds(found.verdict.baseline, winner, found.metric)
    return Optimisation(
        parent=parent.name, parent_version=parent.version, recipe=winner.recipe.name, backend=winner.backend,
        data_sha256=file_sha256(found.asked.data), rows=rows, metric=found.metric.name,
        before=found.verdict.baseline.metric, after=winner.metric, difference_max=winner.difference_max,
        batch=timing.batch, speedup=timing.speedup, speedup_low=timing.speedup_low, speedup_high=timing.speedup_high,
        loss_low=loss_low, loss_high=loss_high,
    )  # fmt: skip


def _compare_original(found: Optimised, model: PackagedModel) -> dict[str, float | int | None]:
    """Return how far the winner's scores are from the original's, and of how many rows.

    Of a model directory the original is not at hand: then what the directory says of it, and the winner's distance from
    the directory's model, are added up.
    """
    source = model.manifest.source
    winner = found.verdict.winner
    assert winner is not None, "there is a winner to compare"
    if found.asked.model.is_dir():
        known = source.difference_max
        return {"difference_max": None if known is None else known + winner.difference_max}
    original = load_original(found.asked.model, allow_pickle=found.asked.allow_pickle)
    if original.score is None:
        return {}
    rows = read_rows(found.table, model.signature.feature_names, original.nulls).take(_spread(found))
    if not source.missing:  # rows with a null get no score, and the original may refuse them
        rows = rows.take(np.flatnonzero(rows.known(model.signature.inputs)))
    feeds = rows.feeds(model.signature.inputs)
    apart = np.abs(np.asarray(model.predict(feeds), np.float64) - original.score_rows(rows))
    return {"difference_max": float(apart.max(initial=0.0)), "rows_compared": len(rows)}


def _spread(found: Optimised) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """Return the places of at most 10,000 rows of the data, evenly spread."""
    rows = found.table.num_rows
    return np.unique(np.linspace(0, rows - 1, min(rows, 10_000)).astype(np.intp))
