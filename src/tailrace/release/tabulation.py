"""The files of tables beside a packaged tree ensemble: where they give the graph's own scores."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tailrace.inference.backends.bitvector import LIBRARY as BITVECTOR_LIBRARY
from tailrace.inference.backends.bitvector import BitvectorKernel
from tailrace.inference.backends.choice import measure_backends
from tailrace.inference.backends.forest import LIBRARY as FOREST_LIBRARY
from tailrace.inference.backends.forest import ForestKernel
from tailrace.inference.backends.forest_tables import ForestArrays, encode_forest, expand_forest
from tailrace.inference.backends.kernel import Kernel, open_library
from tailrace.inference.backends.onnx import find_run, select_scores
from tailrace.inference.backends.table import BIT_VECTORS, FOREST, ONNX_RUNTIME
from tailrace.inference.backends.tree_tables import TreeArrays, encode_tables, expand_tables
from tailrace.inference.manifest import FOREST_FILE, TREES_FILE, BackendTimes
from tailrace.inference.packaged import score_error
from tailrace.inference.predictor import Feeds
from tailrace.release.comparison import Comparison
from tailrace.release.forest import lay_out_forest, suits_forest
from tailrace.release.table_scores import score_forest, score_tables
from tailrace.release.tree_graph import NoTablesError, tabulate_graph

TOLERANCE: Final = 1e-6
"""How far a score may be from the graph's: absolute up to 1, relative above."""
PROBES_MAX: Final = 20_000
"""Rows of made-up values that both are asked."""
ROWS_SLOW_MAX: Final = 10_000
"""Rows of the data that are compared where NumPy computes the tables: 200 trees of 31 leaves take it 6 s."""

_FLOAT32: Final = np.finfo(np.float32)
_EXTREMES: Final = np.array(
    [np.nan, np.inf, -np.inf, 0.0, -0.0, _FLOAT32.max, _FLOAT32.min, _FLOAT32.smallest_subnormal, 1.0, -1.0],
    np.float32,
)

Score = Callable[[NDArray[Any]], NDArray[np.float32]]
Arrays = TreeArrays | ForestArrays


class Tabulated(NamedTuple):
    """The content of the file, or no content and the reason why; what both backends take, where that was measured."""

    content: bytes
    reason: str = ""
    times: BackendTimes | None = None


class Forms(NamedTuple):
    """The files of tables for a model; why a backend has none, where no other has; what the backends take."""

    contents: dict[str, bytes]
    reasons: dict[str, str]
    times: BackendTimes | None


class _Draft(NamedTuple):
    """Tables that are to be checked. kernel: None where the library was not compiled; score_slowly: in NumPy."""

    backend: str
    content: bytes
    arrays: Arrays
    kernel: Kernel | None
    score_slowly: Score


def tabulate_all(chosen: Comparison, feeds: Feeds) -> Forms:
    """Return the one file of tables whose kernel is fastest for a conversion: of those that give its scores.

    The forest kernel's where it suits the trees (`suits_forest`) or the bit vectors do not fit them.
    """
    forest = tabulate_forest(chosen, feeds) if suits_forest(chosen.converted.graph, chosen.signature) else None
    if forest is None or not forest.content:
        bits = tabulate(chosen, feeds)
        if bits.content:
            return Forms({TREES_FILE: bits.content}, {}, bits.times)
        forest = forest or tabulate_forest(chosen, feeds)
        if not forest.content:
            return Forms({}, {BIT_VECTORS: bits.reason, FOREST: forest.reason}, None)
    return Forms({FOREST_FILE: forest.content}, {}, forest.times)


def tabulate(chosen: Comparison, feeds: Feeds, library: Path | None = None) -> Tabulated:
    """Return the bit-vector tables of a conversion, if they give its scores for `feeds` and for probes.

    The probes hold every threshold and the float32 on either side of it, NaN, infinities, the largest numbers, zeros.
    Where the library was not compiled NumPy computes the tables' scores, and nothing is timed: whether the kernel is
    the faster one, and whether it is there at all, is for the machine that serves (`choose_backend`).
    """
    try:
        tables = tabulate_graph(chosen.converted.graph, chosen.signature)
        arrays = expand_tables(tables)
    except (NoTablesError, ValueError, LookupError) as error:  # LookupError: a graph that refers to something missing
        return Tabulated(b"", f"the bit-vector kernel does not fit it: {error}")
    try:
        kernel = BitvectorKernel(arrays, open_library(library or BITVECTOR_LIBRARY))
    except OSError:  # there was no compiler, or it was compiled for another machine or version
        kernel = None
    return _check(_Draft(BIT_VECTORS, encode_tables(tables), arrays, kernel, partial(score_tables, tables)),
                  chosen, feeds)  # fmt: skip


def tabulate_forest(chosen: Comparison, feeds: Feeds, library: Path | None = None) -> Tabulated:
    """Return the forest kernel's tables of a conversion, as `tabulate` does the bit vectors'."""
    try:
        tables = lay_out_forest(chosen.converted.graph, chosen.signature)
        arrays = expand_forest(tables)
    except (NoTablesError, ValueError, LookupError) as error:
        return Tabulated(b"", f"the forest kernel does not fit it: {error}")
    try:
        kernel = ForestKernel(arrays, open_library(library or FOREST_LIBRARY))
    except OSError:
        kernel = None
    return _check(_Draft(FOREST, encode_forest(tables), arrays, kernel, partial(score_forest, arrays)), chosen, feeds)


def _check(draft: _Draft, chosen: Comparison, feeds: Feeds) -> Tabulated:
    """Return tables if they give the scores of a conversion."""
    name = chosen.signature.inputs[0].name
    rows = feeds[name]
    if rows.shape[1:] != (draft.arrays.features,):
        return Tabulated(b"", "its features are not one number each")
    if draft.kernel is None:
        score = draft.score_slowly
        picked = rows[np.linspace(0, len(rows) - 1, min(len(rows), ROWS_SLOW_MAX)).astype(np.intp)]
    else:
        score, picked = draft.kernel.score, rows
    for matrix in (picked, make_probes(draft.arrays, rows)):
        found, expected = score(matrix), chosen.score_raw({name: matrix})
        if found.shape != expected.shape:
            return Tabulated(b"", f"its scores have the shape {expected.shape}, not {found.shape}")
        difference = score_error(found, expected).max()
        if difference > TOLERANCE:
            kernel = "bit-vector kernel" if draft.backend == BIT_VECTORS else draft.backend
            return Tabulated(b"", f"the {kernel} gives a score that is {difference:.1e} from ONNX Runtime's")
    return Tabulated(draft.content, times=_time_both(draft, chosen, name, rows))


def _time_both(draft: _Draft, chosen: Comparison, name: str, rows: NDArray[Any]) -> BackendTimes | None:
    """Return what a call takes by the kernel and by ONNX Runtime, on rows of the data; None without the library.

    Hundreds of features, each with a few splits, are what the bit vectors are slow at: they look every one of them up.
    """
    kernel = draft.kernel
    if kernel is None:
        return None
    outputs = [chosen.signature.output]
    run = find_run(chosen.session, outputs, {name: rows[:1]})

    def draw(count: int, seed: int) -> dict[str, NDArray[Any]]:
        return {name: np.ascontiguousarray(rows[np.random.default_rng(seed).integers(0, len(rows), count)])}

    return measure_backends(
        {
            draft.backend: lambda feeds: kernel.score(feeds[name]),
            ONNX_RUNTIME: lambda feeds: select_scores(run(outputs, feeds, None)[0], chosen.signature.column),
        },
        draw,
    )


def make_probes(arrays: Arrays, rows: NDArray[Any], *, seed: int = 0) -> NDArray[np.float32]:
    """Return real rows with about half of their values replaced by the ones that a split is most easily wrong about."""
    rng = np.random.default_rng(seed)
    values = [_EXTREMES] * arrays.features
    columns, thresholds = arrays.conditions()
    for column in np.unique(columns):
        near = np.unique(thresholds[columns == column])
        with np.errstate(over="ignore"):
            sides = [np.nextafter(near, np.float32(side)) for side in (-np.inf, np.inf)]
        values[column] = np.concatenate([_EXTREMES, near, *sides])
    count = min(PROBES_MAX, 2 * max(map(len, values)))
    probes = rows[rng.integers(0, len(rows), count)].astype(np.float32)
    for column, candidates in enumerate(values):
        # Every value once at least, in rows of its own choice; the rest of the rows keep theirs.
        picked = rng.permutation(count)[: len(candidates)]
        probes[picked, column] = rng.permutation(candidates)[: len(picked)]
    return probes
