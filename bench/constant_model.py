"""A model that says the same of every row: what is left of a request's cost is its features'."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np


def write_constant_model(names: Sequence[str], folder: Path) -> None:
    """Package a model of these inputs that scores 0.5, whatever they are, as a directory."""
    import pyarrow as pa
    from onnx import TensorProto, helper, numpy_helper

    from tailrace.release.package import package

    weights = numpy_helper.from_array(np.zeros((len(names), 1), np.float32), "weights")
    half = numpy_helper.from_array(np.array([0.5], np.float32), "half")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weights"], ["none"]), helper.make_node("Add", ["none", "half"], ["score"])],
        "constant",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, len(names)])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, [None, 1])],
        [weights, half],
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    path = folder.with_suffix(".onnx")
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    rows = np.random.default_rng(3).random((len(names), 60))
    package(path, pa.table(dict(zip(names, rows, strict=True))), name=folder.name, out=folder, overwrite=True)
