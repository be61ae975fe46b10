"""What a LightGBM model's text promises, held against what it holds, before the library reads it.

The library allocates what a count promises, and follows a tree's numbers wherever they lead. So every count is held
against the values that are there, and every number of a node, a leaf, a feature and a category against how many there
are. Children come after their node, as LightGBM writes them: so no tree goes round.

What is read here must be what the library reads. Its parser of whole numbers stops at the first byte that is no digit,
so that 9e-9 is a 9 to it: whole numbers are held to digits, lines to one form, and words to the spaces between them.
"""

from __future__ import annotations

import re
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_BEGIN: Final = b"tree"
_WHOLE: Final = {b"end of trees", b"parameters:", b"end of parameters"}
_TREE: Final = b"\nTree="
_NODES: Final = ("split_feature", "threshold", "decision_type", "left_child", "right_child")
_COUNTS: Final = ("num_class", "num_tree_per_iteration", "max_feature_idx", "label_index")
_OF_LEAVES: Final = ("leaf_count", "leaf_weight")
_OF_NODES: Final = ("internal_count", "internal_weight", "internal_value", "split_gain")
"""Lists that a score does not need, and that the library reads where they are: a wrong one ends the process."""
_REALS: Final = frozenset({"leaf_value", "threshold", "leaf_const", "leaf_coeff", "leaf_weight", "internal_weight",
                           "internal_value", "split_gain", "shrinkage"})  # fmt: skip
"""Lists that need not be of whole numbers."""
_BITS_MAX: Final = 1 << 32
_NO_WHOLE_NUMBER: Final = re.compile(rb"[^-0-9 ]|-(?![0-9])|[0-9]-|[0-9]{11}")
_NO_REAL_NUMBER: Final = re.compile(rb"[^-+.0-9a-zA-Z ]")
"""Looked for, since a match of the whole line would keep a hundred bytes for each byte of it, to be able to go back."""
_NAME: Final = re.compile(rb"\w[^=]*")
_CATEGORICAL: Final = 1
"""A node's bit that says that its threshold is the number of a set of categories."""

Fields = dict[bytes, bytes]


def check_text(content: bytes) -> None:
    """Raise ValueError, saying what is wrong, for a text that could lead LightGBM outside of it."""
    if not content.startswith(_BEGIN):
        raise ValueError("it does not begin as LightGBM's text does")
    if not set(content.split(b"\n")) >= _WHOLE:
        raise ValueError("it is cut short: LightGBM crashes on parameters without an end")
    if b"\0" in content or b"\r" in content:
        raise ValueError("it holds a byte that LightGBM takes for an end")
    head, *trees = content.partition(b"\nend of trees")[0].split(_TREE)
    fields = _read_fields(head)
    for name in _COUNTS:
        count = _number(fields, name)
        if not 0 <= count < len(content):
            raise ValueError(f"{name} is {count}, in {len(content)} bytes")
    _check_classes(fields)
    features = _number(fields, "max_feature_idx") + 1
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
    """Return the values by their names. Raises ValueError for a name that stands twice, or is none."""
    fields: Fields = {}
    for line in filter(None, text.split(b"\n")):
        name, _, value = line.partition(b"=")
        if not _NAME.fullmatch(name):
            raise ValueError(f"{line[:40].decode(errors='replace')!r} begins with no name")
        if name in fields:
            raise ValueError(f"{name.decode(errors='replace')} stands twice")
        fields[name] = value
    return fields


def _check_classes(fields: Fields) -> None:
    """Raise ValueError unless all that write a row's scores write as many: the library has room for the classes."""
    classes, trees = _number(fields, "num_class"), _number(fields, "num_tree_per_iteration")
    if not classes or trees != classes:
        raise ValueError(f"it has {classes} classes, and {trees} trees an iteration")
    for word in fields.get(b"objective", b"").split():
        if word.startswith(b"num_class") and word != b"num_class:%d" % classes:
            raise ValueError(f"it has {classes} classes, and its objective others")


def _check_tree(fields: Fields, features: int) -> None:
    leaves, sets = _number(fields, "num_leaves"), _number(fields, "num_cat")
    nodes = leaves - 1
    if leaves < 1 or sets < 0:
        raise ValueError(f"{leaves} leaves and {sets} sets of categories")
    _values(fields, "leaf_value", leaves)
    _check_linear(fields, leaves, features)
    if not nodes:
        return
    for names, count in ((_OF_LEAVES, leaves), (_OF_NODES, nodes), (("shrinkage",), 1)):
        for name in names:
            if name.encode() in fields:
                _values(fields, name, count)
    found = {name: _values(fields, name, nodes) for name in _NODES}
    _within(found["split_feature"], 0, features, "a feature")
    own = np.arange(nodes)
    for side in ("left_child", "right_child"):
        child = found[side]
        _within(child, -leaves, nodes, "a child")
        if ((child >= 0) & (child <= own)).any():
            raise ValueError("a child stands before its node")
    _check_sets(fields, sets, found["decision_type"], found["threshold"])


def _check_sets(fields: Fields, sets: int, decisions: NDArray[Any], thresholds: NDArray[Any]) -> None:
    """Raise ValueError unless each node that asks for a set of categories asks for one that is there."""
    if sets:
        bounds = _values(fields, "cat_boundaries", sets + 1)
        _within(np.diff(bounds), 0, len(fields.get(b"cat_threshold", b"")) + 1, "a set of categories")
        _within(_values(fields, "cat_threshold", int(bounds[-1])), 0, _BITS_MAX, "a category")
        if bounds[0]:
            raise ValueError("its sets of categories do not begin with the first")
    _within(decisions, 0, 128, "a kind of decision")
    asked = thresholds[(decisions & _CATEGORICAL) > 0]
    _within(asked, 0, sets, "a set of categories")
    if (asked % 1).any():
        raise ValueError("the number of a set of categories is none")


def _check_linear(fields: Fields, leaves: int, features: int) -> None:
    linear = fields.get(b"is_linear", b"0")
    if linear not in {b"0", b"1"}:
        raise ValueError("is_linear is neither 0 nor 1")
    if linear == b"0":
        return
    _values(fields, "leaf_const", leaves)
    counts = _values(fields, "num_features", leaves)
    _within(counts, 0, features + 1, "a leaf's features")
    total = int(counts.sum())
    _within(_values(fields, "leaf_features", total), 0, features, "a leaf's feature")
    _values(fields, "leaf_coeff", total)


def _number(fields: Fields, name: str) -> int:
    return int(_values(fields, name, 1)[0])


def _values(fields: Fields, name: str, count: int) -> NDArray[Any]:
    """Return a list of numbers, float64 or int64. Raises ValueError unless there are so many, as the library reads."""
    text = fields.get(name.encode(), b"")
    fault, dtype = (_NO_REAL_NUMBER, np.float64) if name in _REALS else (_NO_WHOLE_NUMBER, np.int64)
    if fault.search(text):
        raise ValueError(f"{name} holds what is no {'whole ' * (fault is _NO_WHOLE_NUMBER)}number")
    words = text.split()
    if len(words) != count:
        raise ValueError(f"{name} has {len(words)} values, not {count}")
    return np.array(words).astype(dtype) if words else np.zeros(0, dtype)


def _within(values: NDArray[Any], start: int, end: int, what: str) -> None:
    if len(values) and not (start <= values.min() and values.max() < end):
        raise ValueError(f"{what} that is not there")
