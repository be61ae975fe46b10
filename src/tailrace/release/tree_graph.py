"""The trees in an ONNX graph, laid out as tables for the bit-vector kernel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from tailrace.inference.backends.tree_tables import LEAVES_MAX, TABLES_LAYOUT, TreeTables
from tailrace.inference.signature import Signature
from tailrace.release.trees import regressor_graph

_TESTS: Final = {b"BRANCH_LEQ", b"BRANCH_LT", b"BRANCH_GT", b"BRANCH_GTE"}


class NoTablesError(Exception):
    """A model that the bit-vector kernel cannot compute, in words for a person."""


@dataclass(frozen=True, slots=True)
class Split:
    """A split as the kernel has it: `x <= threshold` goes left. cleared: first and end of the left subtree's leaves."""

    feature: int
    threshold: float
    tree: int
    cleared: tuple[int, int]
    missing_right: bool


def tabulate_graph(graph: bytes, signature: Signature) -> TreeTables:
    """Return the tables of an ONNX graph that is one tree ensemble with one score, behind a sigmoid or nothing.

    Raises NoTablesError for any other. That the scores are the graph's is for the caller to check.
    """
    import onnx

    specs = signature.inputs
    if len(specs) != 1 or specs[0].dtype != "float32" or specs[0].widths:
        raise NoTablesError("its input is not one float32 matrix of numbers")
    if signature.column is None:
        raise NoTablesError("it has more than one score a row")
    model = onnx.load_from_string(graph)
    rewritten = regressor_graph(model)
    output = signature.output if rewritten is None else rewritten.graph.output[0].name
    link, attributes = _find_operator(rewritten or model, output)
    operator = _TreeOperator(attributes)
    return _lay_out(operator, link, len(specs[0].features))


def _find_operator(model: Any, output: str) -> tuple[Literal["", "sigmoid"], dict[str, Any]]:
    """Return the link and the attributes of the tree operator that reads the graph's input and gives this output."""
    from onnx import helper

    producers = {name: node for node in model.graph.node for name in node.output}
    link: Literal["", "sigmoid"] = ""
    node = producers[output]
    while node.op_type == "Identity" or (node.op_type == "Sigmoid" and not link):
        link = "sigmoid" if node.op_type == "Sigmoid" else link
        output = node.input[0]
        if output not in producers:
            raise NoTablesError("it is no tree ensemble")
        node = producers[output]
    found = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    if node.op_type == "TreeEnsembleRegressor":
        plain = found.get("n_targets", 1) == 1 and found.get("aggregate_function", b"SUM") == b"SUM"
        kind = "target"
    elif node.op_type == "TreeEnsembleClassifier":
        labels = found.get("classlabels_int64s") or found.get("classlabels_strings") or ()
        plain = len(labels) == 2 and output == node.output[1] and len(set(found["class_ids"])) == 1
        kind = "class"
    else:
        raise NoTablesError(f"it is no tree ensemble, or one behind {node.op_type}")
    if not plain or found.get("post_transform", b"NONE") != b"NONE" or "nodes_values" not in found:
        raise NoTablesError("its tree ensemble has several scores, doubles, or a link other than a sigmoid")
    if node.input[0] != model.graph.input[0].name:
        raise NoTablesError(f"its features go through {producers[node.input[0]].op_type} before the trees")
    weights = {name: found[f"{kind}_{name}"] for name in ("treeids", "nodeids", "weights")}
    return link, {**found, "leaves": weights}


class _TreeOperator:
    """The trees of a TreeEnsemble operator: its parallel lists, found by tree and node."""

    def __init__(self, attributes: dict[str, Any]) -> None:
        self.attributes = attributes
        tree_ids, node_ids = attributes["nodes_treeids"], attributes["nodes_nodeids"]
        self.places = {key: place for place, key in enumerate(zip(tree_ids, node_ids, strict=True))}
        count = len(tree_ids)
        self.missing_true = attributes.get("nodes_missing_value_tracks_true") or [0] * count
        self.base = [float(value) for value in attributes.get("base_values") or (0.0,)]
        leaves = attributes["leaves"]
        self.weights: dict[tuple[int, int], float] = {}
        for tree, node, weight in zip(leaves["treeids"], leaves["nodeids"], leaves["weights"], strict=True):
            if (tree, node) in self.weights:
                raise NoTablesError("a leaf has two weights")
            self.weights[tree, node] = float(weight)
        self.tree_ids = list(dict.fromkeys(tree_ids))
        if len(self.places) != count or len(self.base) != 1:
            raise NoTablesError("two of its nodes have one id, or it has two base values")

    def roots(self) -> Iterator[tuple[int, int]]:
        """Yield each tree's id and its root, which is no node's child."""
        attributes = self.attributes
        children: set[tuple[int, int]] = set()
        for place, (tree, _) in enumerate(self.places):
            if attributes["nodes_modes"][place] != b"LEAF":
                children.add((tree, attributes["nodes_truenodeids"][place]))
                children.add((tree, attributes["nodes_falsenodeids"][place]))
        roots = [key for key in self.places if key not in children]
        if [tree for tree, _ in roots] != self.tree_ids:
            raise NoTablesError("a tree has no root, or several")
        yield from roots

    def walk(self, tree: int, root: tuple[int, int]) -> tuple[list[Split], list[float]]:
        """Return the splits of a tree, named `tree`, and its leaves' values from left to right."""
        splits: list[Split] = []
        values: list[float] = []
        stack: list[tuple[int, int | None]] = [(root[1], None)]
        while stack:
            node, first = stack.pop()
            place = self.places[root[0], node]
            if self.attributes["nodes_modes"][place] == b"LEAF":
                values.append(self.weights.get((root[0], node), 0.0))
                if len(values) > LEAVES_MAX:
                    raise NoTablesError(f"a tree has more than {LEAVES_MAX} leaves")
                continue
            left, right, threshold, missing_right = self._test(place)
            if first is None:
                if len(stack) > LEAVES_MAX:
                    raise NoTablesError(f"a tree is more than {LEAVES_MAX} deep")
                stack += [(node, len(values)), (left, None)]
            else:
                feature = self.attributes["nodes_featureids"][place]
                splits.append(Split(feature, threshold, tree, (first, len(values)), missing_right))
                stack.append((right, None))
        return splits, values

    def _test(self, place: int) -> tuple[int, int, float, bool]:
        """Return a split's left and right node, its threshold, and where NaN goes, as `x <= threshold` goes left."""
        attributes = self.attributes
        mode, threshold = attributes["nodes_modes"][place], np.float32(attributes["nodes_values"][place])
        if mode not in _TESTS:
            raise NoTablesError(f"a split tests {mode.decode()}")
        if np.isnan(threshold) or np.isneginf(threshold):
            raise NoTablesError("a threshold is no number")
        true, false = attributes["nodes_truenodeids"][place], attributes["nodes_falsenodeids"][place]
        missing_true = bool(self.missing_true[place])
        if mode in {b"BRANCH_LT", b"BRANCH_GTE"}:  # x < t is x <= the float32 before t
            threshold = np.nextafter(threshold, np.float32(-np.inf))
        if mode in {b"BRANCH_LEQ", b"BRANCH_LT"}:
            return true, false, float(threshold), not missing_true
        return false, true, float(threshold), missing_true


def _lay_out(operator: _TreeOperator, link: Literal["", "sigmoid"], features: int) -> TreeTables:
    """Return the tables of trees: their splits by feature and threshold."""
    splits: list[Split] = []
    values: list[list[float]] = []
    for tree, root in enumerate(operator.roots()):
        tree_splits, tree_values = operator.walk(tree, root)
        splits += tree_splits
        values.append(tree_values)
    if any(not 0 <= split.feature < features for split in splits):
        raise NoTablesError("a split is on a feature that the input has not")
    splits.sort(key=lambda split: (split.feature, split.threshold))
    leaves: Literal[32, 64] = 32 if max(map(len, values)) <= 32 else 64
    table = np.zeros((len(values), leaves), "<f4")
    for tree, tree_values in enumerate(values):
        table[tree, : len(tree_values)] = tree_values
    every = (1 << leaves) - 1
    masks = [every & ~((1 << split.cleared[1]) - (1 << split.cleared[0])) for split in splits]
    counts = (
        np.bincount([split.feature for split in splits] or [0], minlength=features) if splits else np.zeros(features)
    )
    return TreeTables(
        layout=TABLES_LAYOUT,
        features=features,
        trees=len(values),
        leaves=leaves,
        link=link,
        base=operator.base[0],
        counts=counts.astype("<i4").tobytes(),
        thresholds=np.array([split.threshold for split in splits], "<f4").tobytes(),
        split_trees=np.array([split.tree for split in splits], "<i4").tobytes(),
        split_masks=np.array(masks, f"<u{leaves // 8}").tobytes(),
        missing_right=np.array([split.missing_right for split in splits], "u1").tobytes(),
        values=table.tobytes(),
    )
