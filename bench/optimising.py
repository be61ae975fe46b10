"""What `tailrace optimize` makes of a network of 20 MFLOP a row, and of the fraud example's trees.

The network has random features and a last layer that is fitted to outcomes, so that an AUC means something; its rows
are drawn. The trees are those that the hot path serves, judged on the payments that the example holds back. Tried are
the recipes that may win alone: all of them, and the search for fewer trees, take minutes.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from figures import Figures
from machine import BenchError
from part import Line, Session
from peers import PIPELINE, PREPARED, WORKPLACE
from tailrace.compile.loading import load_pipelines
from tailrace.inference.backends.choice import BackendChoice
from tailrace.inference.loading import load_model
from tailrace.inference.manifest import MODEL_FILE
from tailrace.inference.predictor import Feeds
from tailrace.offline.dataset import dataset
from tailrace.offline.optimize.journal import Trial
from tailrace.offline.optimize.optimizer import Optimised, optimize
from tailrace.offline.optimize.question import Asked
from tailrace.offline.optimize.timing import Timing, time_pair

FOLDER: Final = WORKPLACE / "optimised"
FEATURES: Final = 24
WIDTHS: Final = (2_048, 2_048, 2_048)
"""17 million multiplications and additions a row."""
TRAINED: Final = 6_000
HELD_BACK: Final = 8_000
RIDGE: Final = 300.0
TOLERANCE: Final = 0.001
BUDGET_NS: Final = 20_000_000
TARGET: Final = "is_fraud"
MODEL: Final = PREPARED / "nightly"
"""Of the pipeline PIPELINE."""


def measure_optimising(session: Session) -> Figures:
    """Return how much faster and smaller the winners are, with the bounds of each ratio, and what they are."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    session.tell("optimising: the network")
    network, rows = write_network(FOLDER)
    found = run(session, "network", network, rows, ("int8 dynamic",))
    winner = winner_of(found, "network")
    network_ = {
        "optimize_mlp": winner.name,
        "optimize_speedup_mlp": round(winner.timings[0].speedup, 2),
        "optimize_speedup_mlp_bounds": bounds_of(winner.timings[0]),
        "optimize_size_ratio_mlp": round(winner.size_bytes / network.stat().st_size, 3),
        "optimize_auc_mlp": [round(found.verdict.baseline.metric, 5), round(winner.metric, 5)],
    }
    session.tell("optimising: the payments held back")
    rows = write_held_back(FOLDER)
    found = run(session, "trees", MODEL, rows, ("optimised graph",))
    best = best_of(found)
    against = beside_default(found, best, session.pick(2.0, 0.3))
    return network_ | {
        "optimize_trees": best.name,
        "optimize_speedup_trees": round(against.speedup, 2),
        "optimize_speedup_trees_bounds": bounds_of(against),
        "optimize_speedup_trees_one_thread": round(best.timings[0].speedup, 2),
        "optimize_auc_trees": [round(found.verdict.baseline.metric, 5), round(best.metric, 5)],
    }


def lines_of_optimising(found: Figures) -> list[Line]:
    """Return the lines of the table, from what was measured."""
    get = found.get
    return [
        Line("optimised network, one row", get("optimize_speedup_mlp"), 1.3, 2.0, "×", more_is_better=True),
        Line("  its size beside float32", get("optimize_size_ratio_mlp"), 0.5, 0.26, "×"),
        Line("optimised trees, one row", get("optimize_speedup_trees"), 2.0, 4.0, "×", more_is_better=True),
    ]


def run(session: Session, name: str, model: Path, rows: Path, only: tuple[str, ...]) -> Optimised:
    """Return what the optimiser finds of a model. only: the recipes that may win here, so that it takes seconds."""
    asked = Asked(
        model, rows, "auc", TOLERANCE, BUDGET_NS, TARGET, batches=(1,), seconds=session.pick(1.0, 0.2), only=only
    )  # fmt: skip
    tell: Callable[[str, int, int], None] = lambda step, done, whole: session.tell(f"optimising: {name}, {step}")  # noqa: E731
    return optimize(asked, FOLDER / f"{name}.optimize", tell)


def winner_of(found: Optimised, name: str) -> Trial:
    """Return the trial that won. Raises BenchError where none did."""
    if found.verdict.winner is None:
        raise BenchError(f"optimising: {name}: {found.verdict.why}")
    return found.verdict.winner


def best_of(found: Optimised) -> Trial:
    """Return the winner, or what computes the model best as it is packaged, where nothing is faster than that."""
    fits = [
        trial
        for trial, standing in zip(found.trials, found.verdict.standings, strict=True)
        if standing in {"baseline", "fits"} and trial.is_as_packaged
    ]
    return found.verdict.winner or max(fits, key=lambda each: each.timings[0].speedup)


def bounds_of(timing: Timing) -> list[float]:
    """Return between which values the median of a speedup lies."""
    return [round(timing.speedup_low, 2), round(timing.speedup_high, 2)]


def beside_default(found: Optimised, best: Trial, seconds: float) -> Timing:
    """Return the times of the best beside ONNX Runtime without any setting, on the model as packaged."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(found.baseline / MODEL_FILE, options, providers=["CPUExecutionProvider"])
    model = load_model(found.directory or found.baseline, choice=BackendChoice(best.backend))
    outputs = [model.signature.output]

    def run_default(feeds: Feeds) -> NDArray[Any]:
        scores: NDArray[Any] = session.run(outputs, feeds)[0]
        return scores

    return time_pair(run_default, model.predict, found.evidence.part(judges=True).draw, 1, seconds)


def write_network(folder: Path) -> tuple[Path, Path]:
    """Write the network as ONNX, and rows that it was not fitted on; return both files."""
    import onnx
    import pyarrow as pa
    import pyarrow.parquet as pq
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    x = rng.standard_normal((TRAINED + HELD_BACK, FEATURES)).astype(np.float32)
    hidden, name, width = x, "features", FEATURES
    tensors, nodes = [], []
    for layer, wide in enumerate(WIDTHS):
        weights = (rng.standard_normal((width, wide)) * np.sqrt(2 / width)).astype(np.float32)
        shift = (rng.standard_normal(wide) * 0.1).astype(np.float32)
        hidden, width = np.maximum(hidden @ weights + shift, 0), wide
        tensors += [numpy_helper.from_array(weights, f"w{layer}"), numpy_helper.from_array(shift, f"b{layer}")]
        nodes += [
            helper.make_node("Gemm", [name, f"w{layer}", f"b{layer}"], [f"h{layer}"]),
            helper.make_node("Relu", [f"h{layer}"], [f"r{layer}"]),
        ]
        name = f"r{layer}"
    truth = draw_outcomes(x, rng)
    last = fit_last_layer(hidden[:TRAINED], truth[:TRAINED])
    tensors += [numpy_helper.from_array(last[:-1, None], "w"), numpy_helper.from_array(last[-1:], "b")]
    nodes += [helper.make_node("Gemm", [name, "w", "b"], ["raw"]), helper.make_node("Sigmoid", ["raw"], ["score"])]
    graph = helper.make_graph(
        nodes, "network", [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, FEATURES])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, [None, 1])], tensors,
    )  # fmt: skip
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "network.onnx"
    )
    table = pa.table({f"f{place}": x[TRAINED:, place] for place in range(FEATURES)} | {TARGET: truth[TRAINED:]})
    pq.write_table(table, folder / "network.parquet")
    return folder / "network.onnx", folder / "network.parquet"


def draw_outcomes(x: NDArray[Any], rng: np.random.Generator) -> NDArray[np.int64]:
    """Return outcomes that depend on the features, not on a line, and on chance."""
    signal = x[:, 0] * x[:, 1] + np.sin(2 * x[:, 2]) + 0.5 * x[:, 3] - np.abs(x[:, 4])
    return (signal + 0.4 * rng.standard_normal(len(x)) > 0.3).astype(np.int64)


def fit_last_layer(hidden: NDArray[Any], truth: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return weights, and a shift behind them, by ridge regression on the last hidden layer."""
    whole = np.column_stack([hidden, np.ones(len(hidden))]).astype(np.float64)
    target = (truth * 2 - 1) * 1.5
    return np.linalg.solve(whole.T @ whole + RIDGE * np.eye(whole.shape[1]), whole.T @ target).astype(np.float32)


def write_held_back(folder: Path) -> Path:
    """Write the payments that the fraud example holds back, with the model's features and their label."""
    import pyarrow.parquet as pq

    if str(PIPELINE.parent) not in sys.path:
        sys.path.append(str(PIPELINE.parent))
    from profiles import load_history  # type: ignore[import-not-found]

    cutoff = date.fromisoformat(json.loads((PREPARED / "prepared.json").read_text())["cutoff"])
    (pipeline,) = load_pipelines(PIPELINE)
    rows = load_history(PREPARED / "transactions.parquet", cutoff).held_back_rows()
    pq.write_table(dataset(pipeline, rows), folder / "held_back.parquet")
    return folder / "held_back.parquet"
