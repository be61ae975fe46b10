"""What an XGBoost model promises, held against what it holds, before the library reads it.

The library allocates as many nodes as a tree's header says, and follows a node's numbers wherever they lead.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

FEATURES_MAX: Final = 1 << 20
TARGETS_MAX: Final = 1 << 16
_LISTS: Final = ("left_children", "right_children", "parents", "split_indices", "split_conditions", "default_left")
_NO_CHILD: Final = -1
_CATEGORICAL: Final = 1
_NO_PARENT: Final = (1 << 31) - 1
_PRUNED: Final = (1 << 31) - 1
"""The feature of a node that pruning took out (`gamma` with exact splits): it keeps its place in the lists."""
_STRANGE: Final = (LookupError, TypeError, AttributeError, OverflowError)
"""What reading a value of another type raises."""


def check_trees(model: Any) -> None:
    """Raise ValueError, saying what is wrong, for a model that could lead XGBoost outside of it.

    model: as JSON, or UBJSON, has it.
    """
    try:
        learner = model["learner"]
        parameters = learner["learner_model_param"]
        features, classes = int(parameters["num_feature"]), int(parameters["num_class"])
        targets = int(parameters.get("num_target", 1))
        booster = learner["gradient_booster"]
        booster = booster.get("gbtree", booster)  # DART has its trees within
        trees = booster["model"].get("trees", ())
        if not 0 <= features <= FEATURES_MAX or not 0 <= classes <= TARGETS_MAX or not 0 <= targets <= TARGETS_MAX:
            raise ValueError(f"it has {features} features, {classes} classes and {targets} targets")
        _check_counts(booster["model"], len(trees), max(classes, targets, 1))
    except _STRANGE as error:
        raise ValueError(f"it is not as XGBoost writes it: {type(error).__name__} {error}") from error
    for index, tree in enumerate(trees):
        try:
            _check_tree(tree, features)
        except _STRANGE as error:
            raise ValueError(f"tree {index} is not as XGBoost writes it: {type(error).__name__} {error}") from error
        except ValueError as error:
            raise ValueError(f"tree {index}: {error}") from error


def _check_counts(model: Any, trees: int, targets: int) -> None:
    """Raise ValueError unless a model has the trees that it says, each of a target that there is."""
    if "trees" not in model:  # a linear model
        return
    if int(model["gbtree_model_param"]["num_trees"]) != trees:
        raise ValueError(f"it has {trees} trees, and says otherwise")
    of_targets = _integers(model["tree_info"])
    if len(of_targets) != trees or not _within(of_targets, 0, targets):
        raise ValueError("a tree is of a target that is not there")


def _check_tree(tree: Any, features: int) -> None:
    left = _integers(tree["left_children"])
    nodes = len(left)
    if nodes < 1 or int(tree["tree_param"]["num_nodes"]) != nodes:
        raise ValueError(f"it has {nodes} nodes, and says otherwise")
    if not 0 <= int(tree["tree_param"].get("size_leaf_vector", 1)) <= 1:
        raise ValueError("its leaves hold vectors")
    if any(len(tree[name]) != nodes for name in _LISTS):
        raise ValueError("its lists are not of one length")
    right, split = _integers(tree["right_children"]), _integers(tree["split_indices"])
    if not _within(left, _NO_CHILD, nodes) or not _within(right, _NO_CHILD, nodes):
        raise ValueError("a child that is not there")
    pruned = split == _PRUNED
    if not _within(split[~pruned], 0, max(features, 1)):
        raise ValueError("a feature that is not there")
    if ((left == _NO_CHILD) != (right == _NO_CHILD)).any():
        raise ValueError("a node has one child")
    children = np.concatenate([left, right])
    counts = np.bincount(children[children != _NO_CHILD], minlength=nodes)
    if counts.max() > 1 or counts[0]:  # so from the root no way leads back
        raise ValueError("a node has two parents")
    if (left[pruned] != _NO_CHILD).any() or counts[pruned].any() or pruned[0]:
        raise ValueError("a node that was pruned is still in use")
    parents = _integers(tree["parents"])
    if not _within(parents[pruned], 0, nodes):
        raise ValueError("a node that was pruned had a parent that is not there")
    _check_parents(parents, left, right, pruned)
    _check_categories(tree, nodes)


def _check_parents(
    parents: NDArray[np.int64], left: NDArray[np.int64], right: NDArray[np.int64], pruned: NDArray[np.bool_]
) -> None:
    """Raise ValueError unless every node says whose child it is; what is nobody's says that, or was pruned."""
    found = np.full(len(parents), _NO_PARENT)
    for children in (left, right):
        inner = np.flatnonzero(children != _NO_CHILD)
        found[children[inner]] = inner
    if (parents != found)[~pruned].any():
        raise ValueError("a node is not the child of its parent")


def _check_categories(tree: Any, nodes: int) -> None:
    names = ("categories", "categories_nodes", "categories_segments", "categories_sizes")
    categories, of_nodes, starts, sizes = (_integers(tree.get(name, ())) for name in names)
    if len({len(of_nodes), len(starts), len(sizes)}) != 1 or not _within(of_nodes, 0, nodes):
        raise ValueError("a set of categories of a node that is not there")
    kinds = _integers(tree.get("split_type", np.zeros(nodes, np.int64)))
    if len(kinds) != nodes or not np.array_equal(of_nodes, np.flatnonzero(kinds == _CATEGORICAL)):
        raise ValueError("its sets of categories are not of the nodes that ask for one, in their order")
    if len(starts) and not (
        _within(starts, 0, len(categories) + 1) and _within(starts + sizes, 0, len(categories) + 1)
    ):
        raise ValueError("a category that is not there")
    if not _within(categories, 0, 1 << 24):  # each set becomes a row of bits up to its largest category
        raise ValueError(f"a category beyond {1 << 24}")


def _integers(values: Any) -> NDArray[np.int64]:
    return np.asarray(values, np.int64).reshape(-1)


def _within(values: NDArray[np.int64], start: int, end: int) -> bool:
    return not len(values) or bool(start <= values.min() and values.max() < end)
