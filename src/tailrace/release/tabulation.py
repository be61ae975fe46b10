"""The file of tables beside a packaged tree ensemble: where the kernel gives the graph's own scores, and sooner."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter_ns
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tailrace.deadline import format_duration
from tailrace.inference.bitvector import LIBRARY, BitvectorKernel, open_library
from tailrace.inference.packaged import score_error
from tailrace.inference.tree_tables import TreeArrays, encode_tables, expand_tables
from tailrace.release.comparison import Comparison
from tailrace.release.ensemble import NoTablesError, tabulate_graph

TOLERANCE: Final = 1e-6
"""How far a score may be from the graph's: absolute up to 1, relative above."""
PROBES_MAX: Final = 20_000
"""Rows of made-up values that both are asked."""
ROWS_TIMED: Final = 16
TIMINGS: Final = 60

_FLOAT32: Final = np.finfo(np.float32)
_EXTREMES: Final = np.array(
    [np.nan, np.inf, -np.inf, 0.0, -0.0, _FLOAT32.max, _FLOAT32.min, _FLOAT32.smallest_subnormal, 1.0, -1.0],
    np.float32,
)


class Tabulated(NamedTuple):
    """The content of the file, or no content and the reason why."""

    content: bytes
    reason: str = ""


def tabulate(chosen: Comparison, feeds: dict[str, NDArray[Any]], library: Path = LIBRARY) -> Tabulated:
    """Return the tables of a conversion, if the kernel gives its scores for `feeds` and for probes, and is faster.

    The probes hold every threshold and the float32 on either side of it, NaN, infinities, the largest numbers, zeros.
    """
    signature = chosen.converted.signature
    try:
        tables = tabulate_graph(chosen.converted.graph, signature)
        arrays = expand_tables(tables)
        kernel = BitvectorKernel(arrays, open_library(library))
    except (NoTablesError, ValueError, LookupError) as error:  # LookupError: a graph that refers to what it has not
        return Tabulated(b"", f"the bit-vector kernel does not fit it: {error}")
    except OSError as error:
        return Tabulated(b"", f"it was packaged without the bit-vector library: {error}")
    name = signature.inputs[0].name
    for matrix in (feeds[name], make_probes(arrays, feeds[name])):
        difference = score_error(kernel.score(matrix), chosen.score({name: matrix})).max()
        if difference > TOLERANCE:
            return Tabulated(b"", f"the bit-vector kernel gives a score that is {difference:.1e} from ONNX Runtime's")
    kernel_ns, graph_ns = _time_both(kernel, chosen, name, feeds[name])
    if kernel_ns > graph_ns:
        times = f"{format_duration(graph_ns)}, the bit-vector kernel {format_duration(kernel_ns)}"
        return Tabulated(b"", f"ONNX Runtime is faster: {ROWS_TIMED} rows take it {times}")
    return Tabulated(encode_tables(tables))


def _time_both(kernel: BitvectorKernel, chosen: Comparison, name: str, rows: NDArray[Any]) -> tuple[int, int]:
    """Return the median time of a call of the kernel and of ONNX Runtime, taken in turns on different rows.

    Hundreds of features, each with a few splits, are what the kernel is slow at: it looks every one of them up.
    """
    rng = np.random.default_rng(0)
    times_ns = np.empty((TIMINGS, 2), np.int64)
    for index in range(TIMINGS):
        matrix = np.ascontiguousarray(rows[rng.integers(0, len(rows), ROWS_TIMED)])
        start_ns = perf_counter_ns()
        kernel.score(matrix)
        middle_ns = perf_counter_ns()
        chosen.score({name: matrix})
        times_ns[index] = middle_ns - start_ns, perf_counter_ns() - middle_ns
    return int(np.median(times_ns[:, 0])), int(np.median(times_ns[:, 1]))


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
