"""How many numbers a graph can make of a row, bounded by its operators without computing it.

Most graphs are trees, or a few products with weights: it is seen at once that they stay small. One for which it is not
is computed first where it can do no harm (release/probe.py). Such is also one in which rows may meet each other, as
those of a column and of the same laid down: what it makes of a row grows with the rows beside it.
"""

from __future__ import annotations

from math import prod
from typing import Final, NamedTuple

from tailrace.inference.backends.onnx_graph import Node, read_nodes

ELEMENTS_MAX: Final = 1 << 22
"""Of a row, in all that the nodes give: 32 MiB of doubles."""
WIDTH_MAX: Final = 4_096
"""What an input that says no width is taken to have."""

_SAME: Final = frozenset(
    {
        "Abs", "ArgMax", "ArgMin", "Binarizer", "Cast", "CastLike", "Ceil", "Clip", "Elu", "Erf", "Exp", "Flatten",
        "Floor", "Identity", "Imputer", "IsInf", "IsNaN", "LabelEncoder", "LeakyRelu", "Log", "LogSoftmax", "Neg",
        "Normalizer", "Not", "Reciprocal", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "Relu", "Reshape",
        "Round", "Scaler", "Selu", "Sigmoid", "Sign", "Softmax", "Softplus", "Sqrt", "Squeeze", "Tanh", "Transpose",
        "Unsqueeze",
    }
)  # fmt: skip
"""What gives no more numbers than its first input has."""

_MOVING: Final = frozenset(
    {
        "ArgMax", "ArgMin", "Flatten", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "Reshape", "Squeeze",
        "Transpose", "Unsqueeze",
    }
)  # fmt: skip
"""Which of these may give rows along another axis than they came."""

_BROADCAST: Final = frozenset(
    {
        "Add", "And", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean", "Min", "Mod",
        "Mul", "Or", "PRelu", "Pow", "Sub", "Sum", "Where", "Xor",
    }
)  # fmt: skip
_PRODUCT: Final = _BROADCAST | {"ArrayFeatureExtractor", "Gather", "Gemm", "MatMul"}
"""What gives at most the product of what its inputs have: each number of one meets each of the others."""

_TARGETS: Final = {"LinearRegressor": b"targets", "TreeEnsemble": b"n_targets", "TreeEnsembleRegressor": b"n_targets"}
"""What gives so many numbers as an attribute says, else one."""
_VALUES: Final = frozenset(
    {b"value", b"value_float", b"value_floats", b"value_int", b"value_ints", b"value_string", b"value_strings"}
)
"""Of a constant. A sparse one, which promises more than it holds, is none of these."""
_NO_ROWS: Final = 0
_SOMEWHERE: Final = -1
_TABLE: Final = 2
"""The axis of a table's rows, counted from the last."""
_BATCHED: Final = 3
"""From this axis on a product of matrices pairs each row with its own."""
_DOMAINS: Final = frozenset((b"", b"ai.onnx", b"ai.onnx.ml"))


class _Value(NamedTuple):
    """What a name of the graph stands for. size: its numbers for a row, at most. rank: of a weight, else 0.

    rows: the axis that the rows are along, 1 for the last, 2 for the one before; counted so, broadcasting leaves it.
    `_NO_ROWS` for what is as large whatever rows there are, `_SOMEWHERE` where they may be along any axis.
    """

    size: int
    rows: int
    rank: int = 0


_NOTHING: Final = _Value(1, _NO_ROWS)


def is_bounded(content: bytes) -> bool:
    """Return whether a graph that `check_graph` has passed is seen to stay small, whatever rows it gets."""
    found = read_nodes(content)
    if found is None:
        return False
    inputs, weights, nodes = found
    known = {name: _Value(each.elements or WIDTH_MAX, each.rank or _SOMEWHERE) for name, each in inputs.items()}
    known |= {name: _Value(each.elements, _NO_ROWS, each.rank) for name, each in weights.items()}
    known[b""] = _NOTHING
    whole = 0
    for node in nodes:
        size = _bound(node, known)
        whole += size * len(node.outputs)
        if not 0 < size <= ELEMENTS_MAX or whole > ELEMENTS_MAX:
            return False
        rows = _rows_of(node, [known[name] for name in node.inputs])
        if rows is None:
            return False
        known |= dict.fromkeys(node.outputs, _Value(size, rows))
        if node.kind.endswith(b"Classifier") and node.outputs:  # the classes first, which have no axis but the rows'
            known[node.outputs[0]] = _Value(size, 1 if rows > 0 else rows)
    return True


def _rows_of(node: Node, given: list[_Value]) -> int | None:
    """Return along which axis a node gives rows; None where it may bring rows of one input together with others."""
    kind = node.kind.decode("ascii", "replace")
    one, other = (*given, _NOTHING, _NOTHING)[:2]
    moving = {name: each.rows for name, each in zip(node.inputs, given, strict=True) if each.rows != _NO_ROWS}
    found: int | None = one.rows
    if not moving:
        found = _NO_ROWS
    elif kind in _BROADCAST or kind == "Concat":
        found = _rows_of_several(kind, set(moving.values()), len(moving))
    elif kind in {"Gemm", "MatMul"}:
        found = _rows_of_product(kind, one, other)
    elif kind in {"ArrayFeatureExtractor", "Gather"}:
        chosen = one.rows if kind == "ArrayFeatureExtractor" and one.rows else _SOMEWHERE
        found = None if one.rows and other.rows else chosen
    elif kind in _MOVING:
        found = _SOMEWHERE
    elif kind == "OneHotEncoder":
        found = one.rows + 1 if one.rows > 0 else _SOMEWHERE
    elif kind in _TARGETS or kind.endswith("Classifier"):
        found = _TABLE if one.rows == _TABLE else _SOMEWHERE
    return found


def _rows_of_several(kind: str, axes: set[int], count: int) -> int | None:
    """Return the same of inputs that are laid over one another, or joined. axes: of the `count` that have rows."""
    if count == 1 or (len(axes) == 1 and _SOMEWHERE not in axes):
        return next(iter(axes))
    return _SOMEWHERE if kind == "Concat" else None


def _rows_of_product(kind: str, left: _Value, right: _Value) -> int | None:
    """Return the same of a product of two matrices, or of many."""
    if left.rows and right.rows:
        return left.rows if kind == "MatMul" and left.rows == right.rows >= _BATCHED else None
    if kind == "Gemm":  # which may transpose either, to where no rows are left
        return _TABLE if left.rows == _TABLE else _SOMEWHERE
    return left.rows if left.rows >= _TABLE and right.rank >= _TABLE else _SOMEWHERE


def _bound(node: Node, known: dict[bytes, _Value]) -> int:
    """Return how many numbers a node gives for a row at most; 0 where that is not known."""
    kind = node.kind.decode("ascii", "replace")
    if node.domain not in _DOMAINS or not all(name in known for name in node.inputs):
        return 0
    sizes = [max(known[name].size, 1) for name in node.inputs]
    size = 0
    if kind in _PRODUCT:
        size = prod(sizes)
    elif kind == "Concat":
        size = sum(sizes)
    elif kind in _TARGETS:
        size = node.attributes.get(_TARGETS[kind], 1)
    elif kind == "TreeEnsembleClassifier":
        size = 2 + sum(each for name, each in node.attributes.items() if name.startswith(b"classlabels"))
    elif kind == "Constant" and node.attributes.keys() <= _VALUES:
        size = max(node.attributes.values(), default=0)
    elif kind == "LabelEncoder" and sizes:
        size = sizes[0] * max((1, *node.attributes.values()))
    elif sizes:
        size = _bound_by_first(kind, sizes[0], node.size_bytes)
    return size


def _bound_by_first(kind: str, first: int, size_bytes: int) -> int:
    """Return the same of a node whose first input decides. size_bytes: of the node, with its labels and categories."""
    if kind in {"LinearClassifier", "OneHotEncoder"}:  # one for each of these
        return first * size_bytes
    return first if kind in _SAME else 0
