"""Fewer trees: the first ones alone, or all of them cut at a depth, in the graph whatever made it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tailrace.inference.predictor import Feeds

OPERATORS: Final = ("TreeEnsembleRegressor", "TreeEnsembleClassifier")
ROWS_COUNTED_MAX: Final = 2_000
"""Rows that are led down the trees to learn how many take each branch."""


class TreeGraph:
    """The one tree operator of an ONNX model, its parallel lists as arrays.

    groups: trees that belong together, one for each class where each tree is of one; these are kept or left together.
    Raises LookupError for a model that has none, or several, or one of doubles.
    """

    def __init__(self, graph: bytes) -> None:
        import onnx
        from onnx import helper

        self.model = onnx.load_from_string(graph)
        found = [node for node in self.model.graph.node if node.op_type in OPERATORS]
        if len(found) != 1:
            raise LookupError(f"the graph has {len(found)} tree ensembles")
        self.node = found[0]
        self.attributes = {item.name: helper.get_attribute_value(item) for item in self.node.attribute}
        self.prefix = "class" if self.node.op_type == "TreeEnsembleClassifier" else "target"
        if "nodes_values" not in self.attributes or f"{self.prefix}_weights" not in self.attributes:
            raise LookupError("its tree ensemble is of doubles")
        self.nodes = {name: np.array(value) for name, value in self.attributes.items() if name.startswith("nodes_")}
        ends = [f"{self.prefix}_{name}" for name in ("treeids", "nodeids", "ids", "weights")]
        self.leaves = {name.partition("_")[2]: np.array(self.attributes[name]) for name in ends}
        self.trees = np.unique(self.nodes["nodes_treeids"])
        scores = len(np.unique(self.leaves["ids"]))
        pairs = np.unique(np.stack([self.leaves["treeids"], self.leaves["ids"]]), axis=1)
        self.group = scores if pairs.shape[1] == len(self.trees) else 1

    @property
    def count(self) -> int:
        """How many trees there are, those of all classes as one."""
        return len(self.trees) // self.group

    def keep_trees(self, count: int, *, scaled: bool) -> bytes:
        """Return the graph with the first trees alone. scaled: they count for all, as in a forest that averages."""
        kept = self.trees[: count * self.group]
        nodes = np.isin(self.nodes["nodes_treeids"], kept)
        leaves = {name: array[np.isin(self.leaves["treeids"], kept)] for name, array in self.leaves.items()}
        if scaled:
            leaves["weights"] = (leaves["weights"] * (self.count / count)).astype(np.float32)
        return self._write({name: array[nodes] for name, array in self.nodes.items()}, leaves)

    def cut_trees(self, depth: int, feeds: Feeds) -> bytes:
        """Return the graph with every tree cut at a depth: what was split there becomes a leaf.

        feeds: rows; the leaf's value is the mean of the leaves below it, weighted by how many rows reach each.
        """
        walk = _Walk(self, feeds)
        kept = walk.depths <= depth
        ends = kept & ((walk.depths == depth) | walk.is_leaf)
        nodes = {name: array.copy() for name, array in self.nodes.items()}
        cut = ends & ~walk.is_leaf
        nodes["nodes_modes"] = nodes["nodes_modes"].astype("S12")
        nodes["nodes_modes"][cut] = b"LEAF"
        numbers = walk.number(kept)
        nodes["nodes_nodeids"] = numbers
        nodes["nodes_truenodeids"], nodes["nodes_falsenodeids"] = numbers[walk.true], numbers[walk.false]
        for name in ("featureids", "truenodeids", "falsenodeids", "values"):
            nodes[f"nodes_{name}"][ends] = 0
        places, columns = np.nonzero(ends[:, None] & walk.scores_of[walk.tree_places])
        leaves = {
            "treeids": self.nodes["nodes_treeids"][places], "nodeids": numbers[places],
            "ids": walk.ids[columns], "weights": walk.values()[places, columns].astype(np.float32),
        }  # fmt: skip
        return self._write({name: array[kept] for name, array in nodes.items()}, leaves)

    def depth(self) -> int:
        """Return how deep the deepest tree is."""
        return int(_Walk(self).depths.max())

    def _write(self, nodes: Mapping[str, NDArray[Any]], leaves: Mapping[str, NDArray[Any]]) -> bytes:
        from onnx import helper

        changed = {**nodes, **{f"{self.prefix}_{name}": array for name, array in leaves.items()}}
        attributes = {**self.attributes, **{name: array.tolist() for name, array in changed.items()}}
        model = type(self.model)()
        model.CopyFrom(self.model)
        node = next(each for each in model.graph.node if each.op_type in OPERATORS)
        domain, inputs, outputs, name = node.domain, list(node.input), list(node.output), node.name
        node.CopyFrom(helper.make_node(node.op_type, inputs, outputs, name=name, domain=domain, **attributes))
        content: bytes = model.SerializeToString()
        return content

    def matrix(self, feeds: Feeds) -> NDArray[np.float32]:
        """Return what reaches the trees of some rows: the graph's input, or what is computed of it before."""
        from onnx import TensorProto, helper

        from tailrace.inference.backends.onnx import open_session

        name = self.node.input[0]
        if name in feeds:
            return np.asarray(feeds[name], np.float32)
        model = type(self.model)()
        model.CopyFrom(self.model)
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
        return np.asarray(open_session(model.SerializeToString()).run([name], dict(feeds))[0], np.float32)


class _Walk:
    """The nodes of the trees by their place in its lists. feeds: the rows that are led down; none: no row is.

    depths: of each node. scores_of: for each tree, which scores it adds to; tree_places: of each node, its tree.
    """

    def __init__(self, graph: TreeGraph, feeds: Feeds | None = None) -> None:
        nodes = graph.nodes
        trees = nodes["nodes_treeids"]
        self.graph = graph
        self.is_leaf = nodes["nodes_modes"] == b"LEAF"
        self.tree_places = np.searchsorted(graph.trees, trees)
        span = int(nodes["nodes_nodeids"].max()) + 1
        keys = trees * span + nodes["nodes_nodeids"]
        self._order = np.argsort(keys)
        self._keys, self._span = keys[self._order], span
        inner = ~self.is_leaf
        self.true, self.false = (np.arange(len(keys)) for _ in range(2))
        self.true[inner] = self._find(trees[inner], nodes["nodes_truenodeids"][inner])
        self.false[inner] = self._find(trees[inner], nodes["nodes_falsenodeids"][inner])
        self.depths = self._measure_depths()
        leaves = graph.leaves
        self.ids, columns = np.unique(leaves["ids"], return_inverse=True)
        self.scores_of = np.zeros((len(graph.trees), len(self.ids)), np.bool_)
        self.scores_of[np.searchsorted(graph.trees, leaves["treeids"]), columns] = True
        self.weights = np.zeros((len(keys), len(self.ids)))
        np.add.at(self.weights, (self._find(leaves["treeids"], leaves["nodeids"]), columns), leaves["weights"])
        self.counts = np.zeros(len(keys)) if feeds is None else self._count(graph.matrix(feeds)[:ROWS_COUNTED_MAX])

    def values(self) -> NDArray[np.float64]:
        """Return the value of each node, one for each score: a leaf's own, else the mean of the leaves below it."""
        values = self.weights.copy()
        for depth in range(int(self.depths.max()) - 1, -1, -1):
            here = np.flatnonzero((self.depths == depth) & ~self.is_leaf)
            true, false = self.true[here], self.false[here]
            whole = self.counts[true] + self.counts[false]
            share = np.where(whole > 0, self.counts[true] / np.maximum(whole, 1), 0.5)[:, None]
            values[here] = values[true] * share + values[false] * (1 - share)
        return values

    def number(self, kept: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Return new ids of the nodes that are kept, from 0 in each tree: ONNX Runtime takes no gaps."""
        numbers = np.zeros(len(kept), np.int64)
        for tree in range(len(self.graph.trees)):
            places = np.flatnonzero(kept & (self.tree_places == tree))
            numbers[places] = np.arange(len(places))
        return numbers

    def roots(self) -> NDArray[np.intp]:
        """Return the place of each tree's root, which is no node's child."""
        inner = ~self.is_leaf
        children = np.zeros(len(self.is_leaf), np.bool_)
        children[self.true[inner]] = children[self.false[inner]] = True
        return np.flatnonzero(~children)

    def _find(self, trees: NDArray[Any], nodes: NDArray[Any]) -> NDArray[np.intp]:
        """Return the places of nodes by their ids. Raises LookupError for one that is not there."""
        keys = trees * self._span + nodes
        found = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        if (self._keys[found] != keys).any():
            raise LookupError("a tree refers to a node that it has not")
        places: NDArray[np.intp] = self._order[found]
        return places

    def _measure_depths(self) -> NDArray[np.intp]:
        depths = np.full(len(self.is_leaf), -1)
        level, depth = self.roots(), 0
        while len(level):
            if (depths[level] >= 0).any():
                raise LookupError("a node of a tree has two parents")
            depths[level] = depth
            inner = level[~self.is_leaf[level]]
            level, depth = np.concatenate([self.true[inner], self.false[inner]]), depth + 1
        return depths

    def _count(self, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return how many rows come to each node."""
        nodes = self.graph.nodes
        modes, thresholds, features = nodes["nodes_modes"], nodes["nodes_values"], nodes["nodes_featureids"]
        tracks = nodes.get("nodes_missing_value_tracks_true", np.zeros(0))
        tracks = tracks if len(tracks) else np.zeros(len(modes))
        counts = np.zeros(len(modes))
        here = np.tile(self.roots(), (len(matrix), 1))
        rows = np.arange(len(matrix))[:, None]
        for _ in range(int(self.depths.max()) + 1):
            counts += np.bincount(here.ravel(), minlength=len(counts))
            values, mode, threshold = matrix[rows, features[here]], modes[here], thresholds[here]
            goes = np.select(
                [mode == b"BRANCH_LEQ", mode == b"BRANCH_LT", mode == b"BRANCH_GTE", mode == b"BRANCH_GT",
                 mode == b"BRANCH_EQ"],
                [values <= threshold, values < threshold, values >= threshold, values > threshold, values == threshold],
                values != threshold,
            )  # fmt: skip
            goes = np.where(np.isnan(values), tracks[here] > 0, goes)
            here = np.where(goes, self.true[here], self.false[here])
        return np.where(self.is_leaf, counts / np.maximum(int(self.depths.max()) + 1 - self.depths, 1), counts)
