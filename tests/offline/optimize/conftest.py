"""Small trained models, packaged, and the rows that they are optimised on."""

from __future__ import annotations

from pathlib import Path

import lightgbm
import numpy as np
import pyarrow as pa
import pytest
from onnx import TensorProto, helper, numpy_helper
from pyarrow import parquet

from tailrace.inference.model_directory import read_manifest
from tailrace.offline.optimize.evidence import Evidence
from tailrace.release.package import package

NAMES = ["amount", "ratio", "count", "hour"]


def make_rows(rows: int = 2_000) -> pa.Table:
    """Return rows of four features, a few NaN among them, and the outcomes."""
    rng = np.random.default_rng(7)
    values = rng.lognormal(size=(rows, len(NAMES))).astype(np.float32)
    signal = np.log(values[:, 0]) + 0.8 * np.floor(values[:, 2]) - 0.5 * values[:, 3] + rng.normal(size=rows)
    values[rng.random(rows) < 0.02, 1] = np.nan
    return pa.table(
        {name: values[:, place] for place, name in enumerate(NAMES)} | {"fraud": (signal > 0.7).astype(int)}
    )


def train(table: pa.Table, trees: int = 40) -> lightgbm.Booster:
    """Return a few small trees."""
    data = lightgbm.Dataset(table.select(NAMES).to_pandas(), table["fraud"].to_numpy())
    options = {"objective": "binary", "num_leaves": 8, "num_threads": 1, "verbose": -1}
    return lightgbm.train(options, data, trees)


def write_network(path: Path, rows: pa.Table, width: int = 64) -> Path:
    """Write a network of two layers as ONNX, its last layer fitted so that it predicts."""
    rng = np.random.default_rng(3)
    x = np.nan_to_num(np.column_stack([rows[name].to_numpy() for name in NAMES])).astype(np.float32)
    sizes = [len(NAMES), width, width]
    tensors, nodes, hidden, name = [], [], np.log1p(x), "log"
    nodes = [helper.make_node("Add", ["features", "one"], ["moved"]), helper.make_node("Log", ["moved"], ["log"])]
    tensors = [numpy_helper.from_array(np.ones(1, np.float32), "one")]
    for layer in range(2):
        weights = (rng.normal(size=(sizes[layer], sizes[layer + 1])) / np.sqrt(sizes[layer])).astype(np.float32)
        hidden = np.maximum(hidden @ weights, 0)
        tensors.append(numpy_helper.from_array(weights, f"w{layer}"))
        nodes += [
            helper.make_node("MatMul", [name, f"w{layer}"], [f"h{layer}"]),
            helper.make_node("Relu", [f"h{layer}"], [f"r{layer}"]),
        ]
        name = f"r{layer}"
    truth = rows["fraud"].to_numpy() * 2.0 - 1.0
    last = np.linalg.solve(hidden.T @ hidden + np.eye(width), hidden.T @ truth).astype(np.float32)
    tensors.append(numpy_helper.from_array(last[:, None], "last"))
    nodes += [helper.make_node("MatMul", [name, "last"], ["raw"]), helper.make_node("Sigmoid", ["raw"], ["score"])]
    graph = helper.make_graph(
        nodes, "network", [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, len(NAMES)])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, [None, 1])], tensors,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture(scope="package")
def rows() -> pa.Table:
    """Return the rows that judge and calibrate."""
    return make_rows()


@pytest.fixture(scope="package")
def data(rows: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of the rows."""
    path = tmp_path_factory.mktemp("rows") / "held_back.parquet"
    parquet.write_table(rows, path)
    return path


@pytest.fixture(scope="package")
def booster(rows: pa.Table) -> lightgbm.Booster:
    """Return the trees."""
    return train(rows)


@pytest.fixture(scope="package")
def model(booster: lightgbm.Booster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of the trees."""
    path = tmp_path_factory.mktemp("trained") / "fraud.txt"
    booster.save_model(str(path))
    return path


@pytest.fixture(scope="package")
def baseline(booster: lightgbm.Booster, rows: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the trees as packaged."""
    return package(
        booster, rows, name="fraud", out=tmp_path_factory.mktemp("packaged") / "fraud", target="fraud"
    ).directory


@pytest.fixture(scope="package")
def network(rows: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of the network."""
    return write_network(tmp_path_factory.mktemp("network") / "network.onnx", rows)


@pytest.fixture(scope="package")
def evidence(baseline: Path, rows: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of rows that the processes read."""
    path = tmp_path_factory.mktemp("evidence") / "rows.npz"
    Evidence.gather(read_manifest(baseline), rows, "fraud").save(path)
    return path
