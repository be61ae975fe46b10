"""What a LightGBM model's text promises, held against what it holds, before the library reads it.

The library allocates what a count promises, and follows a tree's numbers wherever they lead. So every count is held
against the values that are there, and every number of a node, a leaf, a feature and a category against how many there
are. Children come after their node, as LightGBM writes them: so no tree goes round.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_BEGIN: Final = b"tree"
_WHOLE: Final = {b"end of trees", b"parameters:", b"end of parameters"}
_TREE: Final = b"\nTree="
_NODES: Final = ("split_feature", "threshold", "decision_type", "left_child", "right_child")
_COUNTS: Final = ("num_class", "num_tree_per_iteration", "max_feature_idx", "label_index")
_CATEGORICAL: Final = 1
"""A node's bit that says that its threshold is the number of a set of categories."""

Fields = dict[bytes, bytes]


def check_text(content: bytes) -> None:
    """Raise ValueError, saying what is wrong, for a text that could lead LightGBM outside of it."""
    if not content.startswith(_BEGIN):
        raise ValueError("it does not begin as LightGBM's text does")
    if not set(content.split(b"\n")) >= _WHOLE:
        raise ValueError("it is cut short: LightGBM crashes on parameters without an end")
    head, *trees = content.partition(b"\nend of trees")[0].split(_TREE)
    fields = _read_fields(head)
    for name in _COUNTS:
        count = int(_number(fields, name))
        if not 0 <= count < len(content):
            raise ValueError(f"{name} is {count}, in {len(content)} bytes")
    features = int(_number(fields, "max_feature_idx")) + 1
    if len(fields.get(b"feature_names", b"").split()) != features:
        raise ValueError(f"it does not name its {features} features")
    sizes = [len(_TREE) + len(tree) for tree in trees]  # where the library looks for them
    if _values(fields, "tree_sizes", len(trees)).tolist() != sizes:
        raise ValueError("its trees are not of the sizes that it says")
    for index, tree in enumerate(trees):
        try:
            _check_tree(_read_fields(tree), features)
        except ValueError as error:
            raise ValueError(f"tree {index}: {error}") from error


def _read_fields(text: bytes) -> Fields:
    """Return the values by their names. Raises ValueError for a name that stands twice."""
    fields: Fields = {}
    for line in text.split(b"\n"):
        name, equals, value = line.partition(b"=")
        if equals and fields.setdefault(name, value) is not value:
            raise ValueError(f"{name.decode(errors='replace')} stands twice")
    return fields


def _check_tree(fields: Fields, features: int) -> None:
    leaves, sets = int(_number(fields, "num_leaves")), int(_number(fields, "num_cat"))
    nodes = leaves - 1
    if leaves < 1 or sets < 0:
        raise ValueError(f"{leaves} leaves and {sets} sets of categories")
    _values(fields, "leaf_value", leaves)
    if fields.get(b"is_linear", b"0").strip() == b"1":
        _check_linear(fields, leaves, features)
    if not nodes:
        return
    found = {name: _values(fields, name, nodes) for name in _NODES}
    _within(found["split_feature"], 0, features, "a feature")
    own = np.arange(nodes)
    for side in ("left_child", "right_child"):
        child = found[side]
        _within(child, -leaves, nodes, "a child")
        if ((child >= 0) & (child <= own)).any():
            raise ValueError("a child stands before its node")
    if sets:
        bounds = _values(fields, "cat_boundaries", sets + 1)
        _within(np.diff(bounds), 0, len(fields.get(b"cat_threshold", b"")) + 1, "a set of categories")
        _values(fields, "cat_threshold", int(bounds[-1]))
        if bounds[0]:
            raise ValueError("its sets of categories do not begin with the first")
    categorical = (found["decision_type"].astype(np.int64) & _CATEGORICAL).astype(np.bool_)
    _within(found["threshold"][categorical], 0, sets, "a set of categories")


def _check_linear(fields: Fields, leaves: int, features: int) -> None:
    _values(fields, "leaf_const", leaves)
    counts = _values(fields, "num_features", leaves)
    _within(counts, 0, features + 1, "a leaf's features")
    total = int(counts.sum())
    _within(_values(fields, "leaf_features", total), 0, features, "a leaf's feature")
    _values(fields, "leaf_coeff", total)


def _number(fields: Fields, name: str) -> int:
    try:
        return int(fields[name.encode()])
    except (KeyError, ValueError):
        raise ValueError(f"{name} is no whole number") from None


def _values(fields: Fields, name: str, count: int) -> NDArray[Any]:
    """Return a list of numbers. Raises ValueError unless there are so many."""
    words = fields.get(name.encode(), b"").split()
    if len(words) != count:
        raise ValueError(f"{name} has {len(words)} values, not {count}")
    return np.array(words, np.float64)


def _within(values: NDArray[Any], start: int, end: int, what: str) -> None:
    if len(values) and not (start <= values.min() and values.max() < end):
        raise ValueError(f"{what} that is not there")
