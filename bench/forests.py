"""Forests of deep trees: the forest kernel's time for a call beside ONNX Runtime's, on one thread each.

`python bench/forests.py` prints the figures.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from time import perf_counter_ns
from typing import Any, Final

import numpy as np

from figures import Figures
from part import Session

TREES: Final = 100
FEATURES: Final = 24
ROWS_TRAINED: Final = 8_000
ROWS: Final = (1, 4, 16, 64)
"""Rows of a call; each call has other ones."""
TURNS: Final = 240
QUICK_TURNS: Final = 40

Score = Callable[[Any], Any]


def measure_forests(session: Session) -> Figures:
    """Return how many times as long ONNX Runtime takes for 64 rows, and the µs of both at several numbers of rows."""
    session.tell("inference: a forest of deep trees")
    rows, target = draw_rows(2 * ROWS_TRAINED)
    kernel, onnx, leaves = open_both(train_graph(rows[:ROWS_TRAINED], target[:ROWS_TRAINED]))
    times_us = time_both(kernel, onnx, rows[ROWS_TRAINED:], session.pick(TURNS, QUICK_TURNS))
    ours_us, onnx_us = times_us[ROWS[-1]]
    return {
        "forest_ratio_ort": round(onnx_us / ours_us, 2),
        "forest_leaves": leaves,
        "forest_us": {str(count): pair for count, pair in times_us.items()},
    }


def draw_rows(count: int) -> tuple[Any, Any]:
    """Return rows, (count, FEATURES), and outcomes that depend on a third of the features."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(count, FEATURES)).astype(np.float32)
    rows[:, FEATURES // 2 :] = np.exp(rows[:, FEATURES // 2 :])
    signal = rows[:, :8].sum(axis=1) + 2 * np.sin(3 * rows[:, 0]) + rows[:, 1] * rows[:, 2]
    return rows, (signal + 1.5 * rng.normal(size=count) > 2).astype(int)


def train_graph(rows: Any, target: Any) -> bytes:
    """Return scikit-learn's random forest of unlimited depth, as `tailrace package` writes it."""
    from sklearn.ensemble import RandomForestClassifier

    from tailrace.release.sklearn_trees import forest_graph

    model = RandomForestClassifier(TREES, n_jobs=os.cpu_count(), random_state=0).fit(rows, target)
    graph = forest_graph(model)
    assert graph is not None, "a random forest has a graph"
    content: bytes = graph.SerializeToString()
    return content


def open_both(graph: bytes) -> tuple[Score, Score, int]:
    """Return what scores a matrix by the kernel and by ONNX Runtime, which agree; and the leaves of a tree."""
    from tailrace.inference.backends.forest import LIBRARY, ForestKernel
    from tailrace.inference.backends.forest_tables import expand_forest
    from tailrace.inference.backends.kernel import open_library
    from tailrace.inference.backends.onnx import find_run, open_session
    from tailrace.inference.signature import Signature, TensorSpec
    from tailrace.release.forest import lay_out_forest

    session = open_session(graph)
    tensor, outputs = session.get_inputs()[0].name, [session.get_outputs()[-1].name]
    spec = TensorSpec(tensor, "float32", tuple(f"f{index}" for index in range(FEATURES)))
    arrays = expand_forest(lay_out_forest(graph, Signature((spec,), outputs[0], 0, (0, 1))))
    kernel = ForestKernel(arrays, open_library(LIBRARY))
    rows, _ = draw_rows(200)
    run = find_run(session, outputs, {tensor: rows})
    np.testing.assert_allclose(kernel.score(rows), run(outputs, {tensor: rows}, None)[0][:, 0], rtol=1e-6, atol=1e-6)
    return kernel.score, lambda matrix: run(outputs, {tensor: matrix}, None), (len(arrays.nodes) // TREES + 1) // 2


def time_both(kernel: Score, onnx: Score, rows: Any, turns: int) -> dict[int, tuple[float, float]]:
    """Return the median µs of a call by both, which take turns and take turns to be first, at each number of rows."""
    rng = np.random.default_rng(0)
    found = {}
    for count in ROWS:
        times_ns: tuple[list[int], list[int]] = ([], [])
        for turn in range(turns):
            matrix = np.ascontiguousarray(rows[rng.integers(0, len(rows), count)])
            for which in (turn % 2, 1 - turn % 2):
                start_ns = perf_counter_ns()
                (kernel, onnx)[which](matrix)
                times_ns[which].append(perf_counter_ns() - start_ns)
        ours_us, onnx_us = (round(float(np.median(each)) / 1e3, 1) for each in times_ns)
        found[count] = (ours_us, onnx_us)
    return found


if __name__ == "__main__":
    print(json.dumps(measure_forests(Session(tell=print)), indent=1))
