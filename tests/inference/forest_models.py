"""Forests of several outputs, deep and oblivious ones, as ONNX graphs; and the forest kernel beside ONNX Runtime."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnx import helper

from inference.tree_models import Forest, Tree, draw_forest
from tailrace.inference.backends.forest import LIBRARY, ForestKernel
from tailrace.inference.backends.forest_tables import ForestTables, decode_forest, encode_forest, expand_forest
from tailrace.inference.backends.kernel import open_library
from tailrace.inference.backends.onnx import open_session
from tailrace.inference.signature import Signature, TensorSpec
from tailrace.release.forest import lay_out_forest
from tailrace.release.trees import build_graph

EXTREMES = (np.nan, np.inf, -np.inf, 0.0, -0.0, 3.4028235e38, -3.4028235e38, 1e-45, -1e-45, 1.1754944e-38)


def oblivious_forest(seed: int, *, features: int, depths: list[int]) -> Forest:
    """Return a forest whose trees ask the same at every node of a level; NaN goes either way."""
    rng = np.random.default_rng(seed)
    forest = Forest(features)
    for depth in depths:
        tests = [
            (int(rng.integers(features)), float(np.float32(rng.normal())), bool(rng.integers(2))) for _ in range(depth)
        ]
        forest.add(_level(tests, rng))
    return forest


def _level(tests: list[tuple[int, float, bool]], rng: np.random.Generator) -> Tree:
    if not tests:
        return float(np.float32(rng.normal()))
    feature, threshold, tracks = tests[0]
    return (feature, threshold, "BRANCH_LEQ", tracks, _level(tests[1:], rng), _level(tests[1:], rng))


@dataclass(frozen=True)
class Many:
    """A forest of several outputs. vectors: whether every leaf has one value for each; else each tree has an output."""

    forest: Forest
    outputs: int = 1
    vectors: bool = False
    average: bool = False

    def graph(self, link: str = "") -> bytes:
        """Return the ONNX graph, with a base value for each output."""
        attributes = dict(self.forest.attributes)
        trees, weights = attributes["target_treeids"], attributes["target_weights"]
        if self.vectors:
            for name in ("treeids", "nodeids"):
                attributes[f"target_{name}"] = np.repeat(attributes[f"target_{name}"], self.outputs).tolist()
            drawn = np.random.default_rng(0).normal(size=(len(weights), self.outputs)).astype(np.float32)
            attributes["target_weights"] = drawn.ravel().tolist()
            attributes["target_ids"] = list(range(self.outputs)) * len(weights)
        else:
            attributes["target_ids"] = [tree % self.outputs for tree in trees]
        base = np.linspace(-0.5, 0.5, self.outputs).astype(np.float32).tolist()
        model = build_graph({**attributes, "n_targets": self.outputs, "base_values": base}, link,
                            self.forest.features, self.outputs)  # fmt: skip
        if self.average:
            kind = next(item for item in model.graph.node[0].attribute if item.name == "aggregate_function")
            kind.CopyFrom(helper.make_attribute("aggregate_function", "AVERAGE"))
        content: bytes = model.SerializeToString()
        return content

    @property
    def signature(self) -> Signature:
        """The signature of the graph."""
        spec = TensorSpec("features", "float32", tuple(f"f{index}" for index in range(self.forest.features)))
        return Signature((spec,), "score", 0) if self.outputs == 1 else Signature(
            (spec,), "score", None, tuple(range(self.outputs)))  # fmt: skip

    def probes(self, seed: int, count: int) -> Any:
        """Return rows of thresholds, the float32 on either side of them, NaN, infinities and other extremes."""
        near = self.forest.thresholds()
        sides = [np.nextafter(near, np.float32(side)) for side in (-np.inf, np.inf)]
        values = np.concatenate([near, *sides, np.array(EXTREMES, np.float32)])
        return np.random.default_rng(seed).choice(values, (count, self.forest.features))


class ForestPair:
    """One forest in the forest kernel and in ONNX Runtime."""

    def __init__(self, many: Many, link: str = "", library: Path = LIBRARY) -> None:
        graph = many.graph(link)
        self.many = many
        self.tables: ForestTables = lay_out_forest(graph, many.signature)
        self.arrays = expand_forest(decode_forest(encode_forest(self.tables)))
        self.kernel = ForestKernel(self.arrays, open_library(library))
        self.session = open_session(graph)

    def expected(self, rows: Any) -> Any:
        """Return ONNX Runtime's scores."""
        scores = self.session.run(["score"], {"features": rows})[0]
        return scores[:, 0] if self.many.outputs == 1 else scores

    def check(self, rows: Any) -> None:
        """Assert that both give the same scores."""
        np.testing.assert_allclose(self.kernel.score(rows), self.expected(rows), rtol=1e-6, atol=1e-6)


MODES = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GT", "BRANCH_GTE")

FORESTS = {
    "one leaf": Many(draw_forest(0, features=3, trees=2, leaves=1)),
    "65 leaves": Many(draw_forest(1, features=3, trees=12, leaves=65)),
    "1,000 leaves, all tests": Many(draw_forest(2, features=5, trees=7, leaves=1000, modes=MODES)),
    "chain of 300": Many(draw_forest(3, features=3, trees=3, leaves=300, chain=True)),
    "300 trees": Many(draw_forest(4, features=3, trees=300, leaves=20, modes=MODES)),
    "an output a tree": Many(draw_forest(5, features=3, trees=30, leaves=40, modes=MODES), 5),
    "a vector a leaf": Many(draw_forest(6, features=3, trees=30, leaves=40, modes=MODES), 3, vectors=True),
    "an average": Many(draw_forest(7, features=3, trees=30, leaves=40), 2, vectors=True, average=True),
    "oblivious": Many(oblivious_forest(8, features=3, depths=[6] * 40)),
    "oblivious, of many depths": Many(oblivious_forest(9, features=3, depths=[0, 9, 1, 2, 8, 0, 3])),
    "oblivious, a vector a leaf": Many(oblivious_forest(10, features=3, depths=[3, 2, 5] * 4), 3, vectors=True),
    "oblivious, an output a tree": Many(oblivious_forest(11, features=3, depths=[3, 2, 5] * 4), 4),
}  # fmt: skip
