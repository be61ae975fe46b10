"""scikit-learn's random forests as ONNX graphs, written here rather than by skl2onnx.

Which has no place for where NaN goes in them, and takes ten seconds for 450,000 nodes. scikit-learn compares float32
values with double thresholds: rounded down to a float32 a threshold parts the same values.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tailrace.release.trees import build_graph

_LEAF: Final = -1
"""What scikit-learn has for the child of a leaf."""


def forest_graph(model: Any) -> Any | None:
    """Return an ONNX model of a random forest, extra trees or one tree, or None for another model.

    A classifier of two classes gives the probability of the second. None as well where a row has several outcomes.
    """
    from sklearn.ensemble import (
        ExtraTreesClassifier,
        ExtraTreesRegressor,
        RandomForestClassifier,
        RandomForestRegressor,
    )
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

    forests = (RandomForestClassifier, RandomForestRegressor, ExtraTreesClassifier, ExtraTreesRegressor)
    if type(model) in forests:
        trees = [each.tree_ for each in model.estimators_]
    elif type(model) in {DecisionTreeClassifier, DecisionTreeRegressor}:
        trees = [model.tree_]
    else:
        return None
    if model.n_outputs_ != 1:
        return None
    parts = [_tree_attributes(tree, index, len(trees), hasattr(model, "classes_")) for index, tree in enumerate(trees)]
    attributes: dict[str, Any] = {name: np.concatenate([part[name] for part in parts]).tolist() for name in parts[0]}
    targets = max(attributes["target_ids"]) + 1
    return build_graph({**attributes, "n_targets": targets}, "", int(model.n_features_in_), targets)


def _tree_attributes(tree: Any, index: int, trees: int, classifies: bool) -> dict[str, NDArray[Any]]:
    """Return the lists of a TreeEnsembleRegressor for one tree of so many."""
    leaf = tree.children_left == _LEAF
    numbers = np.arange(tree.node_count)
    values = tree.value[leaf, 0]
    if classifies:
        values = values / values.sum(axis=1, keepdims=True)
        values = values[:, 1:] if values.shape[1] == 2 else values
    leaves, targets = values.shape
    return {
        "nodes_treeids": np.full(tree.node_count, index),
        "nodes_nodeids": numbers,
        "nodes_featureids": np.where(leaf, 0, tree.feature),
        "nodes_modes": np.where(leaf, "LEAF", "BRANCH_LEQ"),
        "nodes_values": np.where(leaf, np.float32(0), round_down_all(tree.threshold)),
        "nodes_truenodeids": np.where(leaf, 0, tree.children_left),
        "nodes_falsenodeids": np.where(leaf, 0, tree.children_right),
        "nodes_missing_value_tracks_true": np.where(leaf, 0, tree.missing_go_to_left),
        "target_treeids": np.full(leaves * targets, index),
        "target_nodeids": np.repeat(numbers[leaf], targets),
        "target_ids": np.tile(np.arange(targets), leaves),
        "target_weights": (values / trees).astype(np.float32).ravel(),
    }


def round_down_all(thresholds: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return of each double the largest float32 that is not above it."""
    with np.errstate(over="ignore"):
        near = thresholds.astype(np.float32)
    return np.where(near > thresholds, np.nextafter(near, np.float32(-np.inf)), near)
