"""Another model made of a packaged one by a recipe: a model directory of its own, with its own golden scores."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from tailrace.inference.backends.onnx import open_session
from tailrace.inference.backends.table import BACKENDS
from tailrace.inference.manifest import (
    MANIFEST_FILE,
    MODEL_FILE,
    Manifest,
    encode_manifest,
    read_manifest,
)
from tailrace.inference.packaged import score_error
from tailrace.offline.optimize.evidence import Evidence
from tailrace.offline.optimize.layers import halve, has_layers, optimise_graph, quantise
from tailrace.offline.optimize.metric import Metric
from tailrace.offline.optimize.recipes import Recipe
from tailrace.offline.optimize.trees import Ensemble
from tailrace.release.comparison import Comparison
from tailrace.release.convert import Converted
from tailrace.release.exchange import replace_directory
from tailrace.release.tabulation import tabulate_all

DEPTHS_TRIED: Final = 2
"""Depths from the least that is good enough on."""
SHARES_TRIED: Final = (0.0, 0.25, 0.5)
"""Of the trees that could go, the shares that are kept nevertheless."""


def make(baseline: Path, recipe: Recipe, evidence: Evidence, out: Path) -> None:
    """Write the directory `out` of the model that a recipe makes of the one in `baseline`; it appears whole.

    Raises whatever ONNX Runtime, its quantiser and its converter do.
    """
    manifest = read_manifest(baseline)
    before = (baseline / MODEL_FILE).read_bytes()
    graph = rewrite(before, recipe, evidence.part(judges=False))
    draft = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        if graph == before:
            for name in manifest.files:
                (draft / name).hardlink_to(baseline / name)
            manifest = msgspec.structs.replace(manifest, session=recipe.session)
        else:
            forms = {each.file for each in BACKENDS}
            for name in set(manifest.files) - forms:
                (draft / name).hardlink_to(baseline / name)
            (draft / MODEL_FILE).write_bytes(graph)
            manifest = _derive(manifest, before, graph, recipe, evidence, draft)
        (draft / MANIFEST_FILE).write_bytes(encode_manifest(manifest))
        replace_directory(draft, out)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def rewrite(graph: bytes, recipe: Recipe, calibration: Evidence) -> bytes:
    """Return the graph that a recipe makes of another one."""
    match recipe.kind:
        case "as packaged":
            return graph
        case "optimised graph":
            return optimise_graph(graph)
        case "int8 dynamic" | "int8 static":
            return quantise(graph, recipe, calibration.feeds)
        case "float16":
            return halve(graph)
        case "fewer trees":
            return Ensemble(graph).keep_trees(recipe.trees, scaled=recipe.scaled)
        case "cut trees":
            return Ensemble(graph).cut_trees(recipe.depth, calibration.feeds)


def _derive(
    manifest: Manifest, before: bytes, graph: bytes, recipe: Recipe, evidence: Evidence, draft: Path
) -> Manifest:
    """Return the manifest of another graph: its files, golden scores, and what backends it has a form for."""
    found, old = (
        Comparison(Converted(each, manifest.signature, recipe.name), open_session(each)) for each in (graph, before)
    )
    tables = tabulate_all(found, dict(evidence.feeds))
    for name, content in tables.contents.items():
        (draft / name).write_bytes(content)
    feeds = manifest.golden.feeds(manifest.signature)
    scores = found.score(feeds).astype(np.float64)
    rounding = float(score_error(found.score(evidence.feeds), old.score(evidence.feeds)).max())
    golden = msgspec.structs.replace(
        manifest.golden,
        scores=scores.reshape(len(scores), -1).tolist(),
        rounding=rounding if recipe.is_short else manifest.golden.rounding,
    )
    files = {each.name: hashlib.sha256(each.read_bytes()).hexdigest() for each in draft.iterdir()}
    return msgspec.structs.replace(
        manifest, created=datetime.now(UTC).isoformat(timespec="seconds"), files=files, golden=golden,
        reasons=tables.reasons, times=tables.times, trusted=(), session=recipe.session,
        source=msgspec.structs.replace(manifest.source, rewrite=recipe.name),
    )  # fmt: skip


def search(baseline: Path, evidence: Evidence, metric: Metric, tolerance: float) -> list[Recipe]:
    """Return the recipes of smaller ensembles that are worth a trial: the fewest trees, and the least depth.

    They are sought on the rows that calibrate; the rows that judge may find them too small, so that some larger ones
    follow. None for a graph without trees.
    """
    graph = (baseline / MODEL_FILE).read_bytes()
    try:
        ensemble = Ensemble(graph)
    except LookupError:
        return []
    signature = read_manifest(baseline).signature
    rows = evidence.part(judges=False)

    def scores(each: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        return np.asarray(Comparison(Converted(each, signature), open_session(each)).score(rows.feeds), np.float64)

    whole = scores(graph)
    before = metric.measure(whole, rows.outcomes)
    half = max(1, ensemble.count // 2)
    plain, full = (np.abs(scores(ensemble.keep_trees(half, scaled=each)) - whole).mean() for each in (False, True))
    scaled = bool(full < plain)

    def keeps(each: bytes) -> bool:
        return metric.loss(before, metric.measure(scores(each), rows.outcomes)) <= tolerance

    fewest = _least(ensemble.count, lambda count: keeps(ensemble.keep_trees(count, scaled=scaled)))
    depth = ensemble.depth()
    least = _least(depth, lambda each: keeps(ensemble.cut_trees(each, rows.feeds)))
    counts = {fewest + round((ensemble.count - fewest) * share) for share in SHARES_TRIED} - {ensemble.count}
    return [
        *(Recipe(kind="fewer trees", trees=count, of=ensemble.count, scaled=scaled) for count in sorted(counts)),
        *(Recipe(kind="cut trees", depth=each, of=depth) for each in range(least, min(least + DEPTHS_TRIED, depth))),
    ]  # fmt: skip


def _least(most: int, holds: Callable[[int], bool]) -> int:
    """Return the least number from 1 to `most` for which something holds, as far as it holds from there on."""
    low, high = 1, most
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low


def graph_has_layers(baseline: Path) -> bool:
    """Return whether the packaged graph has layers whose numbers can be shorter."""
    return MODEL_FILE in read_manifest(baseline).files and has_layers((baseline / MODEL_FILE).read_bytes())


def size_on_disk(directory: Path, backend: str) -> int:
    """Return the bytes of the file that a backend computes."""
    return next((directory / each.file).stat().st_size for each in BACKENDS if each.name == backend)
