"""What a graph can make of a row is counted in numbers, and its texts by their bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from tailrace.inference.backends.onnx_graph import check_graph
from tailrace.inference.backends.onnx_growth import is_bounded

LONG = "A" * 10_000_000
SHORT = "category"


def encoder(text: str, version: int) -> list[Any]:
    """Return operators that make a text of each number that they do not know, and a number of that."""
    told: dict[str, Any] = {"keys_int64s": [1], "values_strings": [SHORT], "default_string": text}
    if version >= 4:
        tensors = [helper.make_tensor(name, TensorProto.STRING, [1], [each.encode()])
                   for name, each in (("values", SHORT), ("default", text))]  # fmt: skip
        told = {"keys_int64s": [1], "values_tensor": tensors[0], "default_tensor": tensors[1]}
    return [
        helper.make_node("LabelEncoder", ["x"], ["text"], domain="ai.onnx.ml", **told),
        helper.make_node("LabelEncoder", ["text"], ["y"], domain="ai.onnx.ml", keys_strings=["b"],
                         values_floats=[1.0], default_float=0.5),
    ]  # fmt: skip


def choice(copies: int) -> list[Any]:
    """Return operators that copy a text of the graph's for each row."""
    return [
        helper.make_node("Constant", [], ["places"], value_ints=[0] * copies),
        helper.make_node("Gather", ["texts", "places"], ["copied"]),
        helper.make_node(
            "LabelEncoder", ["copied"], ["y"], domain="ai.onnx.ml", keys_strings=["b"], values_floats=[1.0]
        ),
    ]


def graph_of(nodes: list[Any], *texts: str, version: int = 2) -> bytes:
    """Return a graph from `x` to `y` of one column. texts: a weight of it."""
    ends = [helper.make_tensor_value_info(name, kind, ["rows", 1])
            for name, kind in (("x", TensorProto.INT64), ("y", TensorProto.FLOAT))]  # fmt: skip
    weights = [numpy_helper.from_array(np.array(texts, object), "texts")] if texts else []
    graph = helper.make_graph(nodes, "texts", ends[:1], ends[1:], weights)
    opsets = [helper.make_opsetid("", 19), helper.make_opsetid("ai.onnx.ml", version)]
    content: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()
    check_graph(content)
    return content


@pytest.mark.parametrize("version", [2, 4])
def test_long_text_for_each_row_is_not_seen_to_stay_small(version: int) -> None:
    """An encoder copies the text that it has for the unknown, whatever its length; a category's name is no matter."""
    assert is_bounded(graph_of(encoder(SHORT, version), version=version))
    assert not is_bounded(graph_of(encoder(LONG, version), version=version))


def test_copies_of_a_text_are_counted_by_its_bytes() -> None:
    """A thousand of a long one are not small, and a thousand of a short one are."""
    assert is_bounded(graph_of(choice(1_000), SHORT))
    assert is_bounded(graph_of(choice(1), LONG[:100_000]))
    assert not is_bounded(graph_of(choice(1_000), LONG[:100_000]))
