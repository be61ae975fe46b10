"""ONNX files: which output is the score is found by computing it, and an input gets no value that it cannot hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from onnx import TensorProto, helper

from tailrace.errors import ModelPackageError
from tailrace.inference.backends.onnx import OnnxModel
from tailrace.release.package import package

NAMES = ["a", "b"]
WIDTHS = {"static": lambda width: width, "named": lambda width: "C", "unknown": lambda width: None}


@pytest.fixture
def frame() -> pd.DataFrame:
    """Return 50 rows of two features."""
    return pd.DataFrame(np.random.default_rng(0).normal(size=(50, 2)), columns=NAMES)


def write_softmax(path: Path, classes: int, width: Any, *, rows: Any = "N", columns: Any = 2) -> np.ndarray[Any, Any]:
    """Write a softmax regression whose output declares this width, and return its weights.

    Of the operator of linear models: ONNX Runtime finds out the true width of a plain product by itself.
    """
    weights = np.random.default_rng(1).normal(size=(2, classes)).astype(np.float32)
    linear = helper.make_node(
        "LinearRegressor", ["x"], ["raw"], domain="ai.onnx.ml", coefficients=weights.T.ravel().tolist(), targets=classes
    )
    nodes = [linear, helper.make_node("Softmax", ["raw"], ["scores"])]
    graph = helper.make_graph(
        nodes, "softmax",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, columns])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [rows, width])],
    )  # fmt: skip
    write(path, graph)
    return weights


def write(path: Path, graph: Any) -> None:
    """Write a graph as a file."""
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    path.write_bytes(model.SerializeToString())


def write_cast(path: Path, kind: int) -> None:
    """Write a graph that gives the second of two columns, of a type, as its score."""
    nodes = [
        helper.make_node("Cast", ["x"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["floats", "w"], ["score"]),
    ]
    graph = helper.make_graph(
        nodes, "cast",
        [helper.make_tensor_value_info("x", kind, ["N", 2])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["N", 1])],
        [helper.make_tensor("w", TensorProto.FLOAT, [2, 1], [0.0, 1.0])],
    )  # fmt: skip
    write(path, graph)


@pytest.mark.parametrize("declared", WIDTHS)
@pytest.mark.parametrize("classes", [1, 2, 3])
def test_score_of_a_graph_is_found_whatever_width_it_declares(
    declared: str, classes: int, frame: pd.DataFrame, tmp_path: Path
) -> None:
    """One column is the score; of two the second, the probability of class 1; of more all."""
    weights = write_softmax(tmp_path / "m.onnx", classes, WIDTHS[declared](classes))
    manifest = package(tmp_path / "m.onnx", frame, name="m", out=tmp_path / "m").manifest
    assert manifest.signature.column == {1: 0, 2: 1, 3: None}[classes]
    assert manifest.signature.classes == {1: (), 2: (0, 1), 3: (0, 1, 2)}[classes]
    powers = np.exp(frame.to_numpy(np.float32) @ weights)
    expected = powers / powers.sum(axis=1, keepdims=True)
    scores = OnnxModel.load(tmp_path / "m").predict({"x": frame.to_numpy(np.float32)})
    np.testing.assert_allclose(scores, expected if classes == 3 else expected[:, -1], atol=1e-6)


@pytest.mark.parametrize(("rows", "columns"), [(1, 2), ("N", "K")])
def test_graph_that_does_not_compute_the_data_is_refused(
    rows: Any, columns: Any, frame: pd.DataFrame, tmp_path: Path
) -> None:
    """A fixed batch, and a width that shows only when computed, are told."""
    write_softmax(tmp_path / "m.onnx", 2, "C", rows=rows, columns=columns)
    data = frame if rows == 1 else frame.assign(c=1.0)
    with pytest.raises(ModelPackageError, match="cannot be computed on the data"):
        package(tmp_path / "m.onnx", data, name="m", out=tmp_path / "m")


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (TensorProto.INT64, [1.7, 2.0]),
        (TensorProto.INT32, [2**40, 1]),
        (TensorProto.BOOL, [2, 1]),
        (TensorProto.STRING, [1, 2]),
        (TensorProto.INT64, ["1", "2"]),
        (TensorProto.INT64, [1.0, None]),
    ],
)
def test_column_that_an_input_cannot_hold_is_refused(kind: int, values: list[Any], tmp_path: Path) -> None:
    """A value that the input's type would make another one of is told with its column, not cut to fit."""
    write_cast(tmp_path / "m.onnx", kind)
    texts = kind == TensorProto.STRING
    data = pd.DataFrame({"a": ["0", "1"] if texts else [0, 1], "b": values})
    with pytest.raises(ModelPackageError) as caught:
        package(tmp_path / "m.onnx", data, name="m", out=tmp_path / "m")
    assert caught.value.where == "data.b"
    assert list(tmp_path.iterdir()) == [tmp_path / "m.onnx"]


def test_whole_floats_fit_an_input_of_integers(tmp_path: Path) -> None:
    """Integers that pandas holds as floats are integers all the same."""
    write_cast(tmp_path / "m.onnx", TensorProto.INT64)
    data = pd.DataFrame({"a": [0, 1, 2], "b": [4.0, 5.0, 6.0]})
    manifest = package(tmp_path / "m.onnx", data, name="m", out=tmp_path / "m").manifest
    assert {row[0] for row in manifest.golden.scores} == {4.0, 5.0, 6.0}
