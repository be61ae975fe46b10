"""How many numbers a graph can make of a row, bounded by its operators without computing it.

Most graphs are trees, or a few products with weights: it is seen at once that they stay small. One for which it is not
is computed first where it can do no harm (release/probe.py).
"""

from __future__ import annotations

from math import prod
from typing import Final

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

_PRODUCT: Final = frozenset(
    {
        "Add", "And", "ArrayFeatureExtractor", "Div", "Equal", "Gather", "Gemm", "Greater", "GreaterOrEqual", "Less",
        "LessOrEqual", "MatMul", "Max", "Mean", "Min", "Mod", "Mul", "Or", "PRelu", "Pow", "Sub", "Sum", "Where", "Xor",
    }
)  # fmt: skip
"""What gives at most the product of what its inputs have: each number of one meets each of the others."""

_TARGETS: Final = {"LinearRegressor": b"targets", "TreeEnsemble": b"n_targets", "TreeEnsembleRegressor": b"n_targets"}
"""What gives so many numbers as an attribute says, else one."""
_VALUES: Final = frozenset(
    {b"value", b"value_float", b"value_floats", b"value_int", b"value_ints", b"value_string", b"value_strings"}
)
"""Of a constant. A sparse one, which promises more than it holds, is none of these."""
_DOMAINS: Final = frozenset((b"", b"ai.onnx", b"ai.onnx.ml"))


def is_bounded(content: bytes) -> bool:
    """Return whether a graph that `check_graph` has passed is seen to stay small, whatever row it gets."""
    found = read_nodes(content)
    if found is None:
        return False
    inputs, sizes, nodes = found
    known = {name: width or WIDTH_MAX for name, width in inputs.items()} | {b"": 1} | sizes
    whole = 0
    for node in nodes:
        size = _bound(node, known)
        whole += size * len(node.outputs)
        if not 0 < size <= ELEMENTS_MAX or whole > ELEMENTS_MAX:
            return False
        known |= dict.fromkeys(node.outputs, size)
    return True


def _bound(node: Node, known: dict[bytes, int]) -> int:
    """Return how many numbers a node gives for a row at most; 0 where that is not known."""
    kind = node.kind.decode("ascii", "replace")
    if node.domain not in _DOMAINS or not all(name in known for name in node.inputs):
        return 0
    sizes = [max(known[name], 1) for name in node.inputs]
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
    elif sizes:
        size = _bound_by_first(kind, sizes[0], node.size_bytes)
    return size


def _bound_by_first(kind: str, first: int, size_bytes: int) -> int:
    """Return the same of a node whose first input decides. size_bytes: of the node, with its labels and categories."""
    if kind in {"LinearClassifier", "OneHotEncoder"}:  # one for each of these
        return first * size_bytes
    return first if kind in _SAME else 0
