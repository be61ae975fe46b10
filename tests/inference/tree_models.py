"""Tree ensembles as ONNX graphs, drawn at random or by hand, and packaged."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from onnx import TensorProto, helper

from tailrace.inference.backends.bitvector import LIBRARY, BitvectorKernel
from tailrace.inference.backends.kernel import open_library
from tailrace.inference.backends.onnx import open_session
from tailrace.inference.backends.tree_tables import expand_tables
from tailrace.inference.signature import Signature, TensorSpec
from tailrace.release.package import PackageReport, package
from tailrace.release.tree_graph import tabulate_graph
from tailrace.release.trees import build_graph

Tree = float | tuple[int, float, str, bool, Any, Any]
"""A leaf's value, or (feature, threshold, mode, NaN tracks true, true subtree, false subtree)."""


@dataclass
class Forest:
    """The attributes of a TreeEnsembleRegressor, filled tree by tree."""

    features: int
    attributes: dict[str, list[Any]] = field(default_factory=dict)
    trees: int = 0

    def __post_init__(self) -> None:
        nodes = ("treeids", "nodeids", "featureids", "modes", "values", "truenodeids", "falsenodeids",
                 "missing_value_tracks_true")  # fmt: skip
        self.attributes = {f"nodes_{name}": [] for name in nodes}
        self.attributes |= {f"target_{name}": [] for name in ("treeids", "nodeids", "ids", "weights")}

    def add(self, tree: Tree) -> None:
        """Append a tree; its nodes are numbered from the root down."""
        queue: list[tuple[int, Tree]] = [(0, tree)]
        count = 1
        for node_id, node in queue:
            if isinstance(node, tuple):
                feature, threshold, mode, tracks, true, false = node
                self._node(node_id, feature, mode, threshold, count, count + 1, int(tracks))
                queue += [(count, true), (count + 1, false)]
                count += 2
            else:
                self._node(node_id, 0, "LEAF", 0.0, 0, 0, 0)
                for name, value in (("treeids", self.trees), ("nodeids", node_id), ("ids", 0), ("weights", node)):
                    self.attributes[f"target_{name}"].append(value)
        self.trees += 1

    def _node(self, node_id: int, *values: Any) -> None:
        feature, mode, threshold, true, false, tracks = values
        row = (self.trees, node_id, feature, mode, float(threshold), true, false, tracks)
        for name, value in zip([name for name in self.attributes if name.startswith("nodes_")], row, strict=True):
            self.attributes[name].append(value)

    def graph(self, link: str = "", base: float = 0.0) -> bytes:
        """Return the ONNX graph: output `score` of the input `features`."""
        attributes = {**self.attributes, "n_targets": 1, "base_values": [base]}
        content: bytes = build_graph(attributes, link, self.features, 1).SerializeToString()
        return content

    def thresholds(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Return the thresholds of all splits."""
        modes = self.attributes["nodes_modes"]
        values = [v for v, m in zip(self.attributes["nodes_values"], modes, strict=True) if m != "LEAF"]
        return np.array(values, np.float32)


def draw_tree(
    rng: np.random.Generator, features: int, leaves: int, modes: tuple[str, ...], *, chain: bool = False
) -> Tree:
    """Return a tree of so many leaves: of a random shape, or one long chain. Thresholds repeat now and then."""
    if leaves == 1:
        return float(np.float32(rng.normal()))
    left = int(rng.integers(1, leaves)) if not chain else int(rng.choice([1, leaves - 1]))
    threshold = np.float32(rng.normal() if rng.random() < 0.5 else rng.integers(-3, 4))
    parts = [draw_tree(rng, features, count, modes, chain=chain) for count in (left, leaves - left)]
    return (int(rng.integers(features)), float(threshold), str(rng.choice(modes)), bool(rng.integers(2)), *parts)


def draw_forest(
    seed: int, *, features: int, trees: int, leaves: int, modes: tuple[str, ...] = ("BRANCH_LEQ",), chain: bool = False
) -> Forest:
    """Return a forest of trees with 1 to `leaves` leaves, the last tree with all of them."""
    rng = np.random.default_rng(seed)
    forest = Forest(features)
    for index in range(trees):
        count = leaves if index == trees - 1 else int(rng.integers(1, leaves + 1))
        forest.add(draw_tree(rng, features, count, modes, chain=chain))
    return forest


def signature_of(features: int) -> Signature:
    """Return the signature of a graph of `build_graph`."""
    spec = TensorSpec("features", "float32", tuple(f"f{index}" for index in range(features)))
    return Signature((spec,), "score", 0)


def score_both(graph: bytes, features: int, rows: Any) -> tuple[Any, Any]:
    """Return the scores of the bit-vector kernel and of ONNX Runtime, each (rows,)."""
    arrays = expand_tables(tabulate_graph(graph, signature_of(features)))
    found = BitvectorKernel(arrays, open_library(LIBRARY)).score(rows)
    return found, open_session(graph).run(["score"], {"features": rows})[0][:, 0]


def package_forest(forest: Forest, folder: Path, link: str = "Sigmoid") -> PackageReport:
    """Package a forest with some rows to go with it."""
    path = folder / "forest.onnx"
    path.write_bytes(forest.graph(link))
    rows = np.random.default_rng(1).normal(size=(300, forest.features))
    table = pa.table({f"f{index}": rows[:, index] for index in range(forest.features)})
    return package(path, table, name="forest", out=folder / "model")


def scaled_graph(forest: Forest) -> bytes:
    """Return a forest's graph whose features are doubled before they reach the trees."""
    node = helper.make_node("TreeEnsembleRegressor", ["doubled"], ["score"], domain="ai.onnx.ml", n_targets=1,
                            **forest.attributes)  # fmt: skip
    graph = helper.make_graph(
        [helper.make_node("Add", ["features", "features"], ["doubled"]), node],
        "scaled",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, forest.features])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, [None, 1])],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 1)]
    content: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    return content
