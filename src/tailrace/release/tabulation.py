"""The file of tables beside a packaged tree ensemble: where they give the graph's own scores."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tailrace.inference.backends.bitvector import BitvectorKernel, open_library
from tailrace.inference.backends.choice import measure_backends
from tailrace.inference.backends.onnx import find_run, select_scores
from tailrace.inference.backends.table import BIT_VECTORS, ONNX_RUNTIME
from tailrace.inference.backends.tree_tables import TreeArrays, encode_tables, expand_tables
from tailrace.inference.manifest import BackendTimes
from tailrace.inference.packaged import score_error
from tailrace.release.comparison import Comparison
from tailrace.release.ensemble import NoTablesError, tabulate_graph
from tailrace.release.table_scores import score_tables

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


class Tabulated(NamedTuple):
    """The content of the file, or no content and the reason why; what both backends take, where that was measured."""

    content: bytes
    reason: str = ""
    times: BackendTimes | None = None


def tabulate(chosen: Comparison, feeds: dict[str, NDArray[Any]], library: Path | None = None) -> Tabulated:
    """Return the tables of a conversion, if they give its scores for `feeds` and for probes.

    The probes hold every threshold and the float32 on either side of it, NaN, infinities, the largest numbers, zeros.
    Where the library was not compiled NumPy computes the tables' scores, and nothing is timed: whether the kernel is
    the faster one, and whether it is there at all, is for the machine that serves (`choose_backend`).
    """
    signature = chosen.converted.signature
    try:
        tables = tabulate_graph(chosen.converted.graph, signature)
        arrays = expand_tables(tables)
    except (NoTablesError, ValueError, LookupError) as error:  # LookupError: a graph that refers to something missing
        return Tabulated(b"", f"the bit-vector kernel does not fit it: {error}")
    name = signature.inputs[0].name
    rows = feeds[name]
    kernel = _open_kernel(arrays, library)
    if kernel is None:
        score: Score = partial(score_tables, tables)
        picked = rows[np.linspace(0, len(rows) - 1, min(len(rows), ROWS_SLOW_MAX)).astype(np.intp)]
    else:
        score, picked = kernel.score, rows
    for matrix in (picked, make_probes(arrays, rows)):
        difference = score_error(score(matrix), chosen.score_raw({name: matrix})).max()
        if difference > TOLERANCE:
            return Tabulated(b"", f"the bit-vector kernel gives a score that is {difference:.1e} from ONNX Runtime's")
    return Tabulated(encode_tables(tables), times=None if kernel is None else _time_both(kernel, chosen, name, rows))


def _open_kernel(arrays: TreeArrays, library: Path | None) -> BitvectorKernel | None:
    try:
        return BitvectorKernel(arrays, open_library(library))
    except OSError:  # there was no compiler, or it was compiled for another machine or version
        return None


def _time_both(kernel: BitvectorKernel, chosen: Comparison, name: str, rows: NDArray[Any]) -> BackendTimes:
    """Return what a call takes by the kernel and by ONNX Runtime, on rows of the data.

    Hundreds of features, each with a few splits, are what the kernel is slow at: it looks every one of them up.
    """
    outputs = [chosen.signature.output]
    run = find_run(chosen.session, outputs, {name: rows[:1]})

    def draw(count: int, seed: int) -> dict[str, NDArray[Any]]:
        return {name: np.ascontiguousarray(rows[np.random.default_rng(seed).integers(0, len(rows), count)])}

    return measure_backends(
        {
            BIT_VECTORS: lambda feeds: kernel.score(feeds[name]),
            ONNX_RUNTIME: lambda feeds: select_scores(run(outputs, feeds, None)[0], chosen.signature.column),
        },
        draw,
    )


def make_probes(arrays: TreeArrays, rows: NDArray[Any], *, seed: int = 0) -> NDArray[np.float32]:
    """Return real rows with about half of their values replaced by the ones that a split is most easily wrong about."""
    rng = np.random.default_rng(seed)
    values = [_EXTREMES] * arrays.features
    for column, first, end in zip(arrays.columns, arrays.offsets[:-1], arrays.offsets[1:], strict=True):
        near = np.unique(arrays.thresholds[first:end])
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
