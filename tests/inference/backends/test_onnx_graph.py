"""An ONNX file is read as ONNX Runtime reads it: no part of it is there for the one and not for the other."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from tailrace.inference.backends.onnx_graph import ExternalDataError, check_graph

GRAPH, NODES, TENSORS, DIMS, NAME, KIND, LOCATION, CODE = 7, 1, 5, 1, 8, 2, 14, 5
BYTES = 2


def varint(value: int) -> bytes:
    """Return a number as a file has it, however large."""
    content = b""
    while value > 127:
        content += bytes([value & 127 | 128])
        value >>= 7
    return content + bytes([value])


def field(number: int, content: bytes, above: int = 0) -> bytes:
    """Return a field of bytes. above: what stands in its number beyond the bits that a parser keeps."""
    return varint(number << 3 | BYTES | above) + varint(len(content)) + content


def number_of(field_number: int, value: int) -> bytes:
    """Return a field of a number."""
    return varint(field_number << 3) + varint(value)


def model_of(graph: bytes) -> bytes:
    """Return a file around a graph."""
    empty = helper.make_graph([], "g", [], [])
    model = helper.make_model(empty, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model.ClearField("graph")
    content: bytes = model.SerializeToString()
    return content + field(GRAPH, graph)


def graph_of(nodes: list[onnx.NodeProto]) -> bytes:
    """Return a graph from `x` to `y`, of one column."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", 1]) for name in ("x", "y")]
    shape = numpy_helper.from_array(np.array([9]), "shape")
    content: bytes = helper.make_graph(nodes, "g", ends[:1], ends[1:], [shape]).SerializeToString()
    return content


def hidden_nodes() -> bytes:
    """Return a graph whose nodes are of a field whose number is theirs in 32 bits."""
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["big"]),
        helper.make_node("ReduceMax", ["big"], ["most"], keepdims=0),
        helper.make_node("Add", ["x", "most"], ["y"]),
    ]
    return model_of(graph_of([]) + b"".join(field(NODES, node.SerializeToString(), 1 << 32) for node in nodes))


def tensor_at(location: int) -> bytes:
    """Return a graph with a weight that lies where a number says."""
    tensor = number_of(DIMS, 1) + number_of(KIND, 1) + field(NAME, b"w") + number_of(LOCATION, location)
    return model_of(graph_of([]) + field(TENSORS, tensor))


STRANGE: dict[str, tuple[bytes, str]] = {
    "hidden nodes": (hidden_nodes(), "a field that is none"),
    "a field of number 0": (model_of(graph_of([]) + field(0, b"")), "a field that is none"),
    "a long number": (tensor_at(1 << 64 | 1), "belongs to no number"),
    "a longer number": (tensor_at(1 << 80 | 1), "belongs to no number"),
    "a long length": (model_of(varint(TENSORS << 3 | BYTES) + varint(1 << 31)), "more than an ONNX file may have"),
    "a weight elsewhere": (tensor_at(1 << 32 | 1), "its weights lie in other files"),
}


@pytest.mark.parametrize("kind", STRANGE)
def test_number_that_parsers_read_otherwise_is_refused(kind: str) -> None:
    """What does not fit into the type of a field is what its reader makes of it."""
    content, words = STRANGE[kind]
    with pytest.raises(ValueError, match=words):
        check_graph(content)


def test_onnx_runtime_reads_what_is_hidden() -> None:
    """Its parser cuts the number of a field to 32 bits: else the refusal would be for nothing."""
    session = onnxruntime.InferenceSession(hidden_nodes(), providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == ["y"]


def test_number_of_64_bits_is_one() -> None:
    """A negative number takes all of them, as in the axis of an operator, which that word has it read."""
    node = helper.make_node("Softmax", ["x"], ["y"], name="location", axis=-1)
    check_graph(model_of(graph_of([node])))
    with pytest.raises(ExternalDataError):
        check_graph(tensor_at(1))
