from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_remote_client import PROTOCOLS, SIGNATURE, protocol_of

from tailrace.inference.remote.agreement import Disagreement, agree
from tailrace.inference.remote.connection import Reply
from tailrace.inference.remote.declaration import RemoteInput, RemoteModel
from tailrace.inference.remote.described import Described, Tensor
from tailrace.inference.remote.failure import RemoteError
from tailrace.inference.remote.oip import OipProtocol
from tailrace.inference.remote.protocol import RemoteSignature, RemoteTarget
from tailrace.inference.remote.tensorflow import TensorflowProtocol
from tailrace.inference.signature import Signature, TensorSpec

MIXED = Signature(
    (TensorSpec("x", "float32", ("a", "b")), TensorSpec("n", "int64", ("n",)), TensorSpec("country", "string", ("c",))),
    "score",
)
FEEDS: dict[str, Any] = {
    "x": np.array([[0.5, 2.0], [1.25, -3.0]], np.float32),
    "n": np.array([[7], [2**40]], np.int64),
    "country": np.array([["NO"], ["Å"]], object),
}
TARGET = RemoteTarget("/v2/models/fraud/versions/3", "fraud", "3")


def test_oip_request_is_the_specifications() -> None:
    """Each input has its name, shape, type and values in row-major order; a flat one has one dimension."""
    protocol = OipProtocol(TARGET, RemoteSignature(MIXED, flat=("country",)))
    asked = protocol.encode(FEEDS, 2, 20_000_000)
    assert protocol.path == "/v2/models/fraud/versions/3/infer"
    assert json.loads(asked.body) == {
        "id": asked.id,
        "parameters": {"timeout": 20_000},
        "inputs": [
            {"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [0.5, 2.0, 1.25, -3.0]},
            {"name": "n", "datatype": "INT64", "shape": [2, 1], "data": [7, 2**40]},
            {"name": "country", "datatype": "BYTES", "shape": [2], "data": ["NO", "Å"]},
        ],
        "outputs": [{"name": "score"}],
    }


def test_oip_request_in_bytes_is_the_extensions() -> None:
    """Behind the JSON, whose length the head has, come the tensors: little-endian, each text behind its length."""
    asked = OipProtocol(TARGET, RemoteSignature(MIXED, is_binary=True)).encode(FEEDS, 2, 1)
    length = int(asked.head.removeprefix(b"Inference-Header-Content-Length: "))
    header = json.loads(asked.body[:length])
    assert [each["parameters"]["binary_data_size"] for each in header["inputs"]] == [16, 16, 12]
    assert header["outputs"] == [{"name": "score", "parameters": {"binary_data": True}}]
    x, n, country = (asked.body[length:][begin:end] for begin, end in ((0, 16), (16, 32), (32, 44)))
    assert np.frombuffer(x, "<f4").tolist() == [0.5, 2.0, 1.25, -3.0]
    assert np.frombuffer(n, "<i8").tolist() == [7, 2**40]
    assert country == b"\x02\0\0\0NO\x02\0\0\0\xc3\x85"


def test_tensorflow_request_is_by_row_or_by_column() -> None:
    """By row an instance has all inputs; by column an input has all rows."""
    described = RemoteSignature(MIXED, flat=("n", "country"))
    target = RemoteTarget("/v1/models/fraud", "fraud", "")
    by_row = TensorflowProtocol(target, described, by_column=False)
    by_column = TensorflowProtocol(target, described, by_column=True)
    assert by_row.path == "/v1/models/fraud:predict"
    assert json.loads(by_row.encode(FEEDS, 2, 1).body) == {
        "instances": [{"x": [0.5, 2.0], "n": 7, "country": "NO"}, {"x": [1.25, -3.0], "n": 2**40, "country": "Å"}]
    }
    assert json.loads(by_column.encode(FEEDS, 2, 1).body) == {
        "inputs": {"x": [[0.5, 2.0], [1.25, -3.0]], "n": [7, 2**40], "country": ["NO", "Å"]}
    }
    only = TensorflowProtocol(target, RemoteSignature(SIGNATURE), by_column=False)
    assert json.loads(only.encode({"x": np.ones((1, 4), np.float32)}, 1, 1).body) == {"instances": [[1, 1, 1, 1]]}


def test_one_of_several_outputs_is_taken() -> None:
    """A model with several outputs gives them by name, by row or by column."""
    target = RemoteTarget("/v1/models/fraud", "fraud", "")
    by_row = TensorflowProtocol(target, RemoteSignature(SIGNATURE), by_column=False)
    by_column = TensorflowProtocol(target, RemoteSignature(SIGNATURE), by_column=True)
    rows = {"predictions": [{"score": [0.25], "label": "a"}, {"score": [0.5], "label": "b"}]}
    columns = {"outputs": {"score": [[0.25], [0.5]], "label": ["a", "b"]}}
    for protocol, answer in ((by_row, rows), (by_column, columns)):
        assert protocol.decode(Reply(200, {}, json.dumps(answer).encode()), 2, "").tolist() == [0.25, 0.5]


@pytest.mark.parametrize(("column", "classes", "columns", "expected"), [
    (1, (), 0, [0.75, 0.5]),
    (1, ("ham", "spam"), 2, [0.75, 0.5]),
    (None, ("a", "b"), 2, [[0.25, 0.75], [0.5, 0.5]]),
])  # fmt: skip
def test_column_or_classes_of_an_output(column: int | None, classes: Any, columns: int, expected: Any) -> None:
    """The score is one column of the output, or the scores are all of them."""
    described = RemoteSignature(Signature(SIGNATURE.inputs, "score", column, classes), columns)
    answer = {"model_name": "fraud", "id": "1", "outputs": [
        {"name": "score", "datatype": "FP64", "shape": [2, 2], "data": [0.25, 0.75, 0.5, 0.5]}
    ]}  # fmt: skip
    found = OipProtocol(TARGET, described).decode(Reply(200, {}, json.dumps(answer).encode()), 2, "1")
    assert found.tolist() == expected


KEYS = [
    "model_name",
    "model_version",
    "id",
    "outputs",
    "name",
    "datatype",
    "shape",
    "data",
    "parameters",
    "predictions",
]
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize("name", PROTOCOLS)
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_whatever_is_answered_is_scores_of_the_rows_or_an_error(name: str, data: Any) -> None:
    """An answer with a byte changed, cut short, or of any JSON at all: never another shape, never another error."""
    protocol = protocol_of(name, "/x")
    output: dict[str, Any] = {"name": "score", "datatype": "FP32", "shape": [2, 1], "data": [0.5, 0.25]}
    tail = b""
    if name == "oip-binary":
        tail = np.array(output.pop("data"), "<f4").tobytes()
        output["parameters"] = {"binary_data_size": len(tail)}
    good = {"model_name": "fraud", "model_version": "3", "id": "1", "outputs": [output], "predictions": [0.5, 0.25]}
    if name == "tensorflow-columns":
        good = {"outputs": [[0.5], [0.25]]}
    if data.draw(st.booleans()):
        good = {**good, data.draw(st.sampled_from([*good])): data.draw(ANY_JSON)}
    text = json.dumps(good).encode()
    body = text + tail
    if data.draw(st.booleans()):
        at = data.draw(st.integers(0, len(body) - 1))
        body = body[:at] + bytes([data.draw(st.integers(0, 255))]) + body[at + data.draw(st.integers(0, 3)) :]
    headers = {b"inference-header-content-length": b"%d" % len(text)} if tail else {}
    try:
        scores = protocol.decode(Reply(200, headers, body), 2, "1")
    except (RemoteError, RecursionError):
        return
    assert scores.shape == (2,)
    assert scores.dtype == np.float64


NAMES = dict.fromkeys(("amount", "CustomerProfile.age", "TerminalProfile.age", "country"), 1)


def test_inputs_take_the_features_of_their_names() -> None:
    """Of several inputs each is filled by the feature of its name, or of its name's end, where that is one only."""
    described = Described(
        (Tensor("country", "string", (-1,)), Tensor("amount", "float32", (-1, 1))), (Tensor("p", "float32", (-1,)),)
    )
    model = RemoteModel("fraud", url="http://host/v2/models/fraud")
    found = agree(model, described, NAMES)
    assert isinstance(found, RemoteSignature)
    assert [(each.name, each.features) for each in found.signature.inputs] == [
        ("country", ("country",)), ("amount", ("amount",))
    ]  # fmt: skip
    assert found.flat == ("country",)
    described = Described((Tensor("age", "float32", (-1, 1)), Tensor("amount", "float32", (-1, 1))))
    found = agree(model, described, NAMES)
    assert isinstance(found, Disagreement)
    assert found.what == "its input 'age' is filled by CustomerProfile.age or TerminalProfile.age"
    assert "features=" in found.next


@pytest.mark.parametrize(("shape", "dtype", "what"), [
    ((1, 4), "float32", "does not take any number of rows"),
    ((-1, 2, 2), "float32", "does not take any number of rows"),
    ((-1, 4), "UINT8", "is of the type UINT8, which no feature has"),
])  # fmt: skip
def test_input_that_no_batch_fits_is_a_disagreement(shape: tuple[int, ...], dtype: str, what: str) -> None:
    """A model that takes one row, an image, or bytes is told of before traffic."""
    described = Described((Tensor("x", dtype, shape),), (Tensor("score", "float32", (-1, 1)),))
    found = agree(RemoteModel("fraud", url="http://host/v2/models/fraud"), described, NAMES)
    assert isinstance(found, Disagreement)
    assert what in found.what


def test_vector_fills_as_many_columns_as_it_has() -> None:
    """A feature that is a vector counts with its columns, beside others and alone."""
    url, features = "http://host/v2/models/far", {"taste": 8, "age": 1}
    told = Described((Tensor("x", "float32", (-1, 9)),), (Tensor("meaning", "float32", (-1, 3)),))
    found = agree(RemoteModel("far", url=url, vector=3), told, features)
    assert isinstance(found, RemoteSignature)
    assert (found.signature.inputs[0].width, found.columns, found.signature.vector) == (9, 3, 3)
    assert found.signature.column is None
    wrong = agree(RemoteModel("far", url=url, vector=3), told, {"taste": 4, "age": 1})
    assert isinstance(wrong, Disagreement)
    assert wrong.what == "its input 'x' has 9 columns, and the features that fill it have 5"
    assert isinstance(agree(RemoteModel("far", url=url, vector=4), told, features), Disagreement)


def test_two_classes_have_their_second_column_as_the_score() -> None:
    """As everywhere: the probability of the second class is the score, unless another column is named."""
    inputs = [RemoteInput("x")]
    for column, expected in ((None, 1), (0, 0)):
        model = RemoteModel("fraud", url="http://host/v2/models/fraud", inputs=inputs, output="p", column=column,
                            classes=["ham", "spam"])  # fmt: skip
        found = agree(model, None, NAMES)
        assert isinstance(found, RemoteSignature)
        assert (found.signature.column, found.columns) == (expected, 2 if column is None else 0)
