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

_WEIGHTED: Final = frozenset(
    {
        "LinearClassifier", "LinearRegressor", "OneHotEncoder", "TreeEnsemble", "TreeEnsembleClassifier",
        "TreeEnsembleRegressor",
    }
)  # fmt: skip
"""What gives at most so many numbers for each of its input as the node has bytes."""

_SUM: Final = frozenset(("Concat", "FeatureVectorizer"))
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
    if kind == "Constant" and not sizes:
        return node.size_bytes
    if kind in _PRODUCT:
        return prod(sizes)
    if kind in _SUM:
        return sum(sizes)
    first = sizes[0] if sizes else 0
    if kind in _WEIGHTED:
        return first * node.size_bytes
    return first if kind in _SAME else 0
