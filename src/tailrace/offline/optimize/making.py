"""Another model made of a packaged one by a recipe: a model directory of its own, with its own golden scores."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from tailrace.inference.backends.onnx import open_session
from tailrace.inference.backends.table import BACKENDS
from tailrace.inference.manifest import (
    EXPLAIN_FILES,
    MANIFEST_FILE,
    MODEL_FILE,
    Manifest,
    SessionSettings,
    encode_manifest,
)
from tailrace.inference.model_directory import read_manifest
from tailrace.inference.packaged import score_error
from tailrace.offline.optimize.evidence import Evidence
from tailrace.offline.optimize.layers import halve, has_layers, optimise_graph, quantise
from tailrace.offline.optimize.metric import Metric
from tailrace.offline.optimize.recipes import Recipe
from tailrace.offline.optimize.trees import TreeGraph
from tailrace.release.comparison import Comparison
from tailrace.release.convert import Converted
from tailrace.release.exchange import drafted
from tailrace.release.tabulation import tabulate_all

GRID: Final = 14
GRID_RATIO: Final = 0.75
"""How many numbers of trees, and of depths, are looked at, each so much smaller than the next."""
ROUNDING_MAX: Final = 0.01
"""How far a golden score of short numbers may be off at most: a machine whose scores are further off is told."""
ROWS_ROUNDED: Final = 1_000
NUDGE: Final = 1e-5
"""The share by which inputs are moved."""
TREES_TRIED: Final = 5
DEPTHS_TRIED: Final = 3
"""How many of them are measured."""


def make(baseline: Path, recipe: Recipe, evidence: Evidence, out: Path) -> None:
    """Write the directory `out` of the model that a recipe makes of the one in `baseline`; it appears whole.

    Raises whatever ONNX Runtime, its quantiser and its converter do.
    """
    manifest = read_manifest(baseline)
    before = (baseline / MODEL_FILE).read_bytes()
    graph = rewrite(before, recipe, evidence.part(judges=False))
    with drafted(out) as draft:
        if graph == before:
            for name in manifest.files:
                _place(baseline / name, draft / name)
            manifest = msgspec.structs.replace(manifest, session=recipe.session)
        else:
            forms = {each.file for each in BACKENDS}
            left_out = forms if recipe.kind == "optimised graph" else forms | EXPLAIN_FILES  # it explains the baseline
            for name in set(manifest.files) - left_out:
                _place(baseline / name, draft / name)
            (draft / MODEL_FILE).write_bytes(graph)
            manifest = _derive(manifest, graph, recipe, evidence, draft)
        (draft / MANIFEST_FILE).write_bytes(encode_manifest(manifest))


def _place(file: Path, place: Path) -> None:
    """Put a file there too: by a link, or as a copy where the file system has none."""
    try:
        place.hardlink_to(file)
    except OSError:
        shutil.copyfile(file, place)


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
            return TreeGraph(graph).keep_trees(recipe.trees, scaled=recipe.scaled)
        case "cut trees":
            return TreeGraph(graph).cut_trees(recipe.depth, calibration.feeds)


def _derive(manifest: Manifest, graph: bytes, recipe: Recipe, evidence: Evidence, draft: Path) -> Manifest:
    """Return the manifest of another graph: its files, golden scores, and what backends it has a form for."""
    found = Comparison(Converted(graph, manifest.signature, recipe.name), open_session(graph))
    tables = tabulate_all(found, dict(evidence.feeds))
    for name, content in tables.contents.items():
        (draft / name).write_bytes(content)
    feeds = manifest.golden.feeds(manifest.signature)
    scores = found.score(feeds).astype(np.float64)
    golden = msgspec.structs.replace(
        manifest.golden,
        scores=scores.reshape(len(scores), -1).tolist(),
        rounding=measure_rounding(found, evidence) if recipe.is_short else manifest.golden.rounding,
    )
    files = {each.name: hashlib.sha256(each.read_bytes()).hexdigest() for each in draft.iterdir()}
    return msgspec.structs.replace(
        manifest, created=datetime.now(UTC).isoformat(timespec="seconds"), files=files, golden=golden,
        reasons=tables.reasons, times=tables.times, trusted=(), session=recipe.session,
        source=msgspec.structs.replace(manifest.source, rewrite=recipe.name),
    )  # fmt: skip


def measure_rounding(found: Comparison, evidence: Evidence) -> float:
    """Return how far apart two executions of one graph of short numbers are here, ROUNDING_MAX at most.

    As it is served; without ONNX Runtime's optimisations, which add up in other orders; and with inputs that are
    NUDGE higher, or lower. The last two stand for another processor, whose float32 before a step of int8 falls on its
    other side: rarely, so that a nudge of the last bit alone would meet it in none of these rows, which calibrate.
    """
    graph = found.converted.graph
    plain = Comparison(found.converted, open_session(graph, SessionSettings(level="none")))
    feeds = {name: each[:ROWS_ROUNDED] for name, each in evidence.part(judges=False).feeds.items()}
    scores, others = found.score(feeds), [plain.score(feeds)]
    for factor in (1 - NUDGE, 1 + NUDGE):
        nudged = {name: each * np.float32(factor) if each.dtype == np.float32 else each for name, each in feeds.items()}
        others.append(found.score(nudged))
    return min(ROUNDING_MAX, max(float(score_error(scores, each).max()) for each in others))


def search(baseline: Path, evidence: Evidence, metric: Metric, tolerance: float) -> list[Recipe]:
    """Return the recipes of fewer and smaller trees that are worth a trial: the fewest trees, and the least depth.

    They are sought on the rows that calibrate; the rows that judge may find them too small, so that some larger ones
    follow. None for a graph without trees.
    """
    graph = (baseline / MODEL_FILE).read_bytes()
    try:
        trees = TreeGraph(graph)
    except LookupError:
        return []
    signature = read_manifest(baseline).signature
    rows = evidence.part(judges=False)

    def scores(each: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        return np.asarray(Comparison(Converted(each, signature), open_session(each)).score(rows.feeds), np.float64)

    whole = scores(graph)
    before = metric.measure(whole, rows.outcomes)
    half = max(1, trees.count // 2)
    plain, full = (np.abs(scores(trees.keep_trees(half, scaled=each)) - whole).mean() for each in (False, True))
    scaled = bool(full < plain)

    def keeps(each: bytes) -> bool:
        return metric.loss(before, metric.measure(scores(each), rows.outcomes)) <= tolerance

    depth = trees.depth()
    counts = numbers_to_try(trees.count, lambda count: keeps(trees.keep_trees(count, scaled=scaled)), TREES_TRIED)
    depths = numbers_to_try(depth, lambda each: keeps(trees.cut_trees(each, rows.feeds)), DEPTHS_TRIED)
    return [
        *(Recipe(kind="fewer trees", trees=count, of=trees.count, scaled=scaled) for count in counts),
        *(Recipe(kind="cut trees", depth=each, of=depth) for each in depths),
    ]


def numbers_to_try(most: int, holds: Callable[[int], bool], count: int) -> list[int]:
    """Return numbers below `most` that are worth a trial, `count` at most: from the least for which something holds.

    The last is the least from which on it holds for all that are looked at. A metric of few rows jumps, and may hold
    for a few trees by luck; so what lies between the two, in equal ratios, is tried as well, on the rows that judge.
    """
    if most <= 1:
        return []
    looked_at = sorted({max(1, round(most * GRID_RATIO**step)) for step in range(1, GRID)} | {most})
    held = [*map(holds, looked_at[:-1]), True]  # all of them hold
    first = held.index(True)
    steady = len(held) - held[::-1].index(False) if False in held else 0
    least = _bisect(looked_at[first - 1] if first else 0, looked_at[first], holds)
    last = max(least, min(looked_at[steady], most - 1))
    numbers = {int(number) for number in np.geomspace(least, last, count).round()}
    return sorted(number for number in numbers if number < most)


def _bisect(without: int, with_it: int, holds: Callable[[int], bool]) -> int:
    """Return the least number above the first for which something holds, which it does for the second."""
    while without + 1 < with_it:
        middle = (without + with_it) // 2
        without, with_it = (without, middle) if holds(middle) else (middle, with_it)
    return with_it


def graph_has_layers(baseline: Path) -> bool:
    """Return whether the packaged graph has layers whose numbers can be shorter."""
    return MODEL_FILE in read_manifest(baseline).files and has_layers((baseline / MODEL_FILE).read_bytes())


def size_on_disk(directory: Path, backend: str) -> int:
    """Return the bytes of the file that a backend computes."""
    return next((directory / each.file).stat().st_size for each in BACKENDS if each.name == backend)
