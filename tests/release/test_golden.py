"""Golden rows: what a model is held to wherever it is loaded is the original's own score, or no golden row."""

from __future__ import annotations

from pathlib import Path

import lightgbm
import numpy as np
import pandas as pd
import pytest
from onnx import TensorProto, helper, numpy_helper

from tailrace.errors import ModelPackageError
from tailrace.inference.loading import load_model
from tailrace.release import comparison
from tailrace.release.comparison import choose_graph
from tailrace.release.convert import convert
from tailrace.release.golden import pick_golden
from tailrace.release.original import load_original
from tailrace.release.package import GOLDEN_LEFT_OUT, ROWS_UNSCORED, package
from tailrace.release.rows import read_rows
from tailrace.release.table import read_table

NAMES = ["amount", "seen"]


def frame_of(rows: int = 600) -> pd.DataFrame:
    """Return two features and outcomes that follow them."""
    rng = np.random.default_rng(5)
    frame = pd.DataFrame(rng.random((rows, 2)).astype(np.float32).astype(np.float64), columns=NAMES)
    return frame.assign(fraud=(frame["amount"] + rng.normal(size=rows) / 4 > 0.5).astype(int))


def train(frame: pd.DataFrame, **options: object) -> lightgbm.Booster:
    """Return a few trees."""
    data = lightgbm.Dataset(frame[NAMES], frame["fraud"], params={"min_data_in_bin": 1})
    return lightgbm.train({"objective": "binary", "verbose": -1, "num_threads": 1, **options}, data, 10)


def write_logarithm(path: Path) -> Path:
    """Write an ONNX graph that gives the logarithm of its one feature: NaN below zero."""
    nodes = [helper.make_node("MatMul", ["x", "one"], ["same"]), helper.make_node("Log", ["same"], ["score"])]
    graph = helper.make_graph(
        nodes, "logarithm", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 1])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, [None, 1])],
        [numpy_helper.from_array(np.ones((1, 1), np.float32), "one")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def test_wrong_score_is_no_golden_one() -> None:
    """A row that was not compared is when it is picked: a conversion that scores it otherwise is refused."""
    frame = frame_of()
    table = read_table(frame)
    model, other = load_original(train(frame)), load_original(train(frame, learning_rate=0.3))
    chosen = choose_graph(model, convert(model, table, "fraud", embedding=False), table)
    rows = read_rows(table, chosen.signature.feature_names)
    scores = chosen.score(rows.feeds(chosen.signature.inputs))
    assert pick_golden(model, chosen, rows, scores)[1] == 0
    with pytest.raises(ModelPackageError, match="otherwise than the original"):
        pick_golden(other, chosen, rows, scores)


def test_rows_that_float32_moves_are_left_out_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of rows that were not compared, those that float32 moves are no golden ones, and are counted."""
    monkeypatch.setattr(comparison, "ROWS_COMPARED_MAX", 50)
    frame = frame_of()
    compared = np.linspace(0, len(frame) - 1, 50).astype(np.int64)
    moved = np.setdiff1d(np.arange(len(frame)), compared)[::2]
    frame.loc[moved, "amount"] = 1.6e9 + np.arange(len(moved)) % 8
    frame.loc[moved, "fraud"] = np.arange(len(moved)) % 8 % 2
    report = package(train(frame), frame, name="m", out=tmp_path / "m")
    assert int(report.manifest.metrics[GOLDEN_LEFT_OUT]) > 0


def test_rows_without_a_score_are_left_out_and_told(tmp_path: Path) -> None:
    """An ONNX file that gives NaN for some rows is packaged with the others; one that always does is refused."""
    graph = write_logarithm(tmp_path / "logarithm.onnx")
    frame = pd.DataFrame({"x": np.linspace(-1, 3, 400).astype(np.float32)})
    manifest = package(graph, frame, name="m", out=tmp_path / "m").manifest
    assert manifest.metrics[ROWS_UNSCORED] == 100
    assert np.isfinite(manifest.golden.scores).all()
    assert np.isnan(load_model(tmp_path / "m").predict({"x": np.array([[-1.0]], np.float32)})).all()
    with pytest.raises(ModelPackageError, match="scores no row of the data with a number"):
        package(graph, frame - 10, name="m", out=tmp_path / "none")
