"""Callers of the Open Inference Protocol over HTTP, by its words: metadata, readiness, tensors in JSON and in bytes."""

from __future__ import annotations

import gzip
import json
import struct
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from math import isnan
from typing import Any

import pytest
from http_server import RELEASE, Answer, RawClient, RunningServer, ample, head_of, payment_of, post

from tailrace.codecs.inflating import CODINGS
from tailrace.errors import InvalidTensorError
from tailrace.pipeline import Pipeline
from tailrace.server.http.outgoing import HttpCall

NAMES = ("log", "kinds", "ranking", "payment")
LOG = "/v2/models/log/infer"
KINDS = "/v2/models/kinds/infer"
FP64 = {"datatype": "FP64", "shape": [1]}


@pytest.fixture(scope="module")
def server(pipeline_of: Callable[[str], Pipeline]) -> Iterator[RunningServer]:
    """Serve pipelines, which are models to these callers."""
    with RunningServer([ample(pipeline_of(name)) for name in NAMES]) as server:
        yield server


@pytest.fixture
def oip(server: RunningServer) -> Iterator[RawClient]:
    """Return a client of it."""
    with server.connect() as client:
        yield client


def tensor(name: str, data: Any, datatype: str = "FP64", shape: list[int] | None = None, **more: Any) -> dict[str, Any]:
    """Return an input."""
    return {"name": name, "datatype": datatype, "shape": shape or [len(data)], "data": data} | more


def binary(name: str, data: bytes, datatype: str = "FP64", shape: list[int] | None = None) -> tuple[Any, bytes]:
    """Return an input whose data stand behind the JSON, and these."""
    told = {"name": name, "datatype": datatype, "shape": shape or [1], "parameters": {"binary_data_size": len(data)}}
    return told, data


def texts(*values: str | bytes) -> bytes:
    """Return texts as the bytes of a tensor."""
    pieces = [value.encode() if isinstance(value, str) else value for value in values]
    return b"".join(struct.pack("<I", len(piece)) + piece for piece in pieces)


def infer(client: RawClient, *inputs: Any, path: str = LOG, headers: tuple[str, ...] = (), **more: Any) -> Answer:
    """Send a call; return its answer. inputs: each a dict, or what `binary` gives."""
    told = [each if isinstance(each, dict) else each[0] for each in inputs]
    behind = [each[1] for each in inputs if not isinstance(each, dict)]
    text = json.dumps({"inputs": told} | more).encode()
    if behind:
        headers = (*headers, f"Inference-Header-Content-Length: {len(text)}")
    return client.ask(post(text + b"".join(behind), *headers, path=path))


def outputs_of(answer: Answer) -> dict[str, Any]:
    """Return the outputs by name: what each holds, in rows where it has two dimensions."""
    assert answer.status == 200, answer.body
    size = int(answer.headers.get("inference-header-content-length", len(answer.body)))
    behind, found = answer.body[size:], {}
    for each in json.loads(answer.body[:size])["outputs"]:
        values = each.get("data")
        if values is None:
            length = each["parameters"]["binary_data_size"]
            piece, behind = behind[:length], behind[length:]
            values = values_in(piece, each["datatype"])
        if len(each["shape"]) == 2:
            rows, width = each["shape"]
            assert len(values) == rows * width
            values = [values[row * width : (row + 1) * width] for row in range(rows)]
        else:
            assert [len(values)] == each["shape"]
        found[each["name"]] = values
    assert behind == b""
    return found


def values_in(piece: bytes, datatype: str) -> list[Any]:
    """Return what a tensor's bytes hold."""
    if datatype != "BYTES":
        code = {"FP64": "d", "INT64": "q", "BOOL": "?"}[datatype]
        return [value for (value,) in struct.iter_unpack(f"<{code}", piece)]
    found = []
    while piece:
        size = int.from_bytes(piece[:4], "little")
        found.append(piece[4 : 4 + size])
        piece = piece[4 + size :]
    return found


# -- what is told -----------------------------------------------------------------------------------------------------


def test_server_and_models_are_told(oip: RawClient) -> None:
    """Metadata name the server's extensions, and of a model the version, the inputs and the outputs."""
    server = oip.ask(head_of(path="/v2")).json
    assert server["name"] == "tailrace"
    assert server["extensions"] == ["binary_tensor_data", "schedule_policy"]
    model = oip.ask(head_of(path="/v2/models/kinds")).json
    assert oip.ask(head_of(path=f"/v2/models/kinds/versions/{RELEASE}")).json == model
    assert (model["name"], model["versions"], model["platform"]) == ("kinds", [RELEASE], "tailrace")
    inputs = {each["name"]: (each["datatype"], each["shape"]) for each in model["inputs"]}
    assert inputs["amount"] == ("FP64", [-1])
    assert inputs["count"] == ("INT64", [-1])
    assert inputs["flag"] == ("BOOL", [-1])
    assert inputs["time"] == inputs["label"] == inputs["colour"] == inputs["terms"] == ("BYTES", [-1])
    assert inputs["level"] == ("INT64", [-1])
    assert inputs["maybe_count"] == ("FP64", [-1])
    assert (inputs["numbers"], inputs["vector"]) == (("FP64", [-1, -1]), ("FP64", [-1, 2]))
    assert [each["name"] for each in model["outputs"]][:3] == ["score", "count", "flag"]
    optional = [each["name"] for each in model["inputs"] if each.get("parameters") == {"optional": True}]
    assert optional == [name for name in inputs if name != "amount"]
    assert all(each.keys() == {"name", "datatype", "shape"} for each in model["outputs"])


def test_readiness_is_the_workers(server: RunningServer, oip: RawClient) -> None:
    """The server and its models are ready while the worker is; it lives all the same."""
    paths = ("/v2/health/ready", "/v2/models/log/ready", f"/v2/models/log/versions/{RELEASE}/ready")
    assert [oip.ask(head_of(path=path)).status for path in paths] == [200, 200, 200]
    server.on_loop(server.readiness.set, False)
    try:
        answers = [oip.ask(head_of(path=path)) for path in paths]
        assert [(each.status, list(each.json)) for each in answers] == [(503, ["error"])] * 3
        assert oip.ask(head_of(path="/v2/health/live")).json == {"live": True}
    finally:
        server.on_loop(server.readiness.set, True)


@pytest.mark.parametrize(
    "path", ["/v2/models/absent", "/v2/models/log/versions/2/infer", "/v2/models/log/config", "/v2x"]
)
def test_what_is_not_there_is_not_found(oip: RawClient, path: str) -> None:
    """An unknown model, version or path is a 404, told as the protocol has it where it is the protocol's."""
    answer = oip.ask(head_of(path=path))
    assert answer.status == 404
    assert list(answer.json) == (["error"] if path.startswith("/v2/") else list(answer.problem()))


# -- what is asked ----------------------------------------------------------------------------------------------------


def test_rows_are_answered_as_by_the_usual_path(oip: RawClient) -> None:
    """One row or many, by the name of the model or of its version; the id comes back."""
    told = oip.ask(post("[" + payment_of(1.5, "a") + "," + payment_of(2.5, "b") + "]")).json
    inputs = tensor("amount", [1.5, 2.5]), tensor("label", ["a", "b"], "BYTES", [2, 1])
    answer = infer(oip, *inputs, id="seven")
    assert (answer.json["model_name"], answer.json["model_version"], answer.json["id"]) == ("log", RELEASE, "seven")
    assert outputs_of(answer) == {name: [each[name] for each in told] for name in told[0]}
    one = infer(oip, tensor("amount", [1.5]), path=f"/v2/models/log/versions/{RELEASE}/infer")
    assert "id" not in one.json
    assert outputs_of(one)["score"] == [told[0]["score"]]
    assert outputs_of(infer(oip, tensor("amount", [], shape=[0])))["score"] == []


def test_what_other_clients_say_is_passed_over(oip: RawClient) -> None:
    """Null for what is not there, parameters that are not known, and members that are not: each is as if unsaid."""
    amount = tensor("amount", [1.0], parameters={"content_type": "np", "binary": None})
    null = dict.fromkeys(("id", "parameters", "outputs"))
    answer = infer(oip, amount, tensor("label", ["a"], "BYTES", parameters=None), **null)
    assert (outputs_of(answer)["score"], "id" in answer.json) == ([0.0], False)
    answer = infer(oip, amount, parameters={"headers": {}, "content_type": "pd"}, extension=[1])
    assert outputs_of(answer)["score"] == [0.0]


def test_outputs_are_chosen_by_name(oip: RawClient) -> None:
    """Only those, in that order, each in JSON or in bytes."""
    wanted = [{"name": "label"}, {"name": "score", "parameters": {"binary_data": True}}]
    answer = infer(oip, tensor("amount", [1.0]), tensor("label", ["é"], "BYTES"), outputs=wanted)
    assert answer.headers["content-type"] == "application/octet-stream"
    assert list(outputs_of(answer).items()) == [("label", ["é"]), ("score", [0.0])]


def everything() -> list[Any]:
    """Return two rows of each kind, in bytes; every second one in JSON."""
    return [
        binary("amount", struct.pack("<2f", 1.0, 2.0), "FP32", [2, 1]),
        tensor("count", [3, 4], "INT32"),
        binary("flag", b"\1\0", "BOOL", [2]),
        binary("label", texts("a", "ü"), "BYTES", [2]),
        tensor("time", ["2026-01-02T03:04:05Z", None], "BYTES"),
        binary("colour", texts("red", "blue"), "BYTES", [2]),
        tensor("mode", ["b", "a"], "BYTES"),
        binary("level", struct.pack("<2q", 2, 1), "INT64", [2]),
        binary("maybe", struct.pack("<2d", float("nan"), 0.5), "FP64", [2]),
        binary("maybe_count", struct.pack("<2d", 7.0, float("nan")), "FP64", [2]),
        tensor("maybe_flag", [True, None], "BOOL"),
        binary("raw", texts(b"\xff\0", b""), "BYTES", [2]),
        tensor("numbers", [[1.0, 2.0], [3, 4]], "FP64", [2, 2]),
        tensor("words", ["[]", '["x","y"]'], "BYTES", [2]),
        binary("vector", struct.pack("<4e", 1, 2, 3, 4), "FP16", [2, 2]),
        tensor("terms", ['{"months":3}', "null"], "BYTES"),
        tensor("table", ['{"a":1}', "{}"], "BYTES"),
    ]


@pytest.mark.parametrize("in_bytes", [False, True])
def test_each_kind_of_field_has_a_tensor(oip: RawClient, in_bytes: bool) -> None:
    """What comes in JSON or in bytes comes back as it was sent, in either."""
    answer = infer(oip, *everything(), path=KINDS, parameters={"binary_data_output": in_bytes})
    found = outputs_of(answer)
    plain = [each.decode() if isinstance(each, bytes) else each for each in found["colour"]]
    assert plain == ["red", "blue"]
    assert (found["count"], found["flag"], found["level"]) == ([3, 4], [True, False], [2, 1])
    assert (found["numbers"], found["vector"]) == ([[1.0, 2.0], [3.0, 4.0]], [[1.0, 2.0], [3.0, 4.0]])
    if in_bytes:
        assert found["label"] == [b"a", "ü".encode()]
        assert found["time"] == [b"2026-01-02T03:04:05Z", b""]
        assert found["raw"] == [b"\xff\0", b""]
        assert (found["maybe"][1], found["maybe_count"][0]) == (0.5, 7.0)
        assert all(map(isnan, (found["maybe"][0], found["maybe_count"][1], found["maybe_flag"][1])))
        assert (found["words"], found["terms"]) == ([b"[]", b'["x","y"]'], [b'{"months":3,"rate":0.0}', b"null"])
    else:
        assert found["label"] == ["a", "ü"]
        assert found["time"] == ["2026-01-02T03:04:05Z", None]
        assert found["raw"] == ["/wA=", ""]
        assert (found["maybe"], found["maybe_count"], found["maybe_flag"]) == ([None, 0.5], [7, None], [True, None])
        assert (found["words"], found["table"]) == (["[]", '["x","y"]'], ['{"a":1}', "{}"])


def test_many_rows_of_one_request_are_one_row_of_lists(oip: RawClient) -> None:
    """A ranking's lists are tensors of two dimensions, where all requests have as many items; else texts of JSON."""
    path = "/v2/models/ranking/infer"
    items = tensor("item_ids", [1, 2, 3, 4, 5, 6], "INT64", [2, 3])
    found = outputs_of(infer(oip, tensor("user_id", [7, 8], "INT64"), items, path=path))
    told = oip.ask(post('[{"user_id":7,"item_ids":[1,2,3]},{"user_id":8,"item_ids":[4,5,6]}]',
                        path="/v1/pipelines/ranking/predict")).json  # fmt: skip
    assert found["score"] == [each["score"] for each in told]
    assert found["decision"] == [each["decision"] for each in told]
    uneven = tensor("item_ids", ["[1]", "[2,3]"], "BYTES")
    found = outputs_of(infer(oip, tensor("user_id", [7, 8], "INT64"), uneven, path=path))
    assert [json.loads(each) for each in found["item_ids"]] == [[1], [2, 3]]


def test_compressed_call_is_read_and_answered(oip: RawClient) -> None:
    """Gzip around JSON and bytes, and an answer in it: the length is that of the JSON before it is compressed."""
    told, data = binary("amount", struct.pack("<200d", *range(1, 201)), "FP64", [200])
    text = json.dumps({"inputs": [told], "parameters": {"binary_data_output": True}}).encode()
    headers = f"Inference-Header-Content-Length: {len(text)}", "Content-Encoding: gzip", "Accept-Encoding: gzip"
    answer = oip.ask(post(gzip.compress(text + data), *headers, path=LOG))
    assert (answer.status, answer.headers["content-encoding"]) == (200, "gzip")
    whole = Answer(answer.version, 200, answer.headers, gzip.decompress(answer.body))
    assert len(outputs_of(whole)["score"]) == 200
    if b"zstd" in CODINGS:
        zstd = import_module("backports.zstd" if sys.version_info < (3, 14) else "compression.zstd")
        assert oip.ask(post(zstd.compress(text + data), headers[0], "Content-Encoding: zstd", path=LOG)).status == 200
    bomb = oip.ask(post(gzip.compress(b" " * 50_000_000), "Content-Encoding: gzip", path=LOG))
    assert (bomb.status, list(bomb.json)) == (413, ["error"])
    refused = oip.ask(post(text + data, "Content-Encoding: br", path=LOG))
    assert (refused.status, list(refused.json)) == (415, ["error"])


@pytest.mark.parametrize("data", ["[[],[]]", "[1.0,2.0]", '["a"]'])
def test_refusal_holds_nothing_of_its_call(server: RunningServer, data: str) -> None:
    """Nor frames in which its body and tensors are: who keeps it would keep them, and some frames keep it."""
    endpoint: Any = server.http.shared.routes[LOG.encode()][b"POST"]
    body = b'{"inputs":[{"name":"amount","datatype":"FP64","shape":[1],"data":%b}]}' % data.encode()
    call = HttpCall(None, None, None, 0, 0, 1, None, None, True)  # type: ignore[arg-type]
    refusal = server.on_loop(lambda: endpoint.accept(call, body, 10**10))
    assert isinstance(refusal, InvalidTensorError)
    assert (refusal.__traceback__, refusal.__context__) == (None, None)


def test_remembered_head_keeps_its_length(oip: RawClient) -> None:
    """Calls whose JSON has another length, and calls that are JSON throughout, are told apart on one connection."""
    for number in range(30):
        inputs = binary("amount", struct.pack("<d", 1.0)), binary("label", texts("x" * (number % 4) * 7), "BYTES")
        answer = infer(oip, *inputs, id="i" * (number % 3), parameters={"binary_data_output": True})
        assert outputs_of(answer)["label"] == [b"x" * (number % 4) * 7]
        assert outputs_of(infer(oip, tensor("amount", [1.0])))["label"] == [""]


def test_calls_of_both_kinds_meet_in_one_batch(server: RunningServer, oip: RawClient) -> None:
    """Pipelined calls of this protocol and of the usual path are answered in order, from one batch."""
    body = json.dumps({"inputs": [tensor("amount", [1.0]), tensor("label", ["b"], "BYTES")], "id": "2"})
    sent = [post(payment_of(1.0, "a")), post(body, path=LOG), post(payment_of(1.0, "c"))]
    server.settle()  # a batch is counted after its answers are on their way
    before = server.batches("log")
    oip.send(b"".join(sent))
    first, second, third = (oip.read() for _ in sent)
    assert (first.json["label"], outputs_of(second)["label"], third.json["label"]) == ("a", ["b"], "c")
    server.settle()
    assert server.batches("log") == before + 1


def test_head_is_answered_as_elsewhere(oip: RawClient) -> None:
    """A request id comes back, and the layers' times are told to who asks, beside the length of the JSON."""
    inputs = binary("amount", struct.pack("<d", 1.0))
    headers = "X-Request-Id: r-1", "X-Trace: 1"
    answer = infer(oip, inputs, headers=headers, parameters={"binary_data_output": True})
    assert outputs_of(answer)["score"] == [0.0]
    assert (answer.headers["x-request-id"], "inference;dur=" in answer.headers["server-timing"]) == ("r-1", True)


def test_timeout_is_the_budget(oip: RawClient) -> None:
    """Microseconds that are too few for any batch are refused as shed, with the error of the protocol."""
    answer = infer(oip, tensor("amount", [1.0]), parameters={"timeout": 1})
    assert (answer.status, list(answer.json)) == (503, ["error"])
    assert answer.headers["retry-after"] == "1"
    assert infer(oip, tensor("amount", [1.0]), parameters={"timeout": 10_000_000, "priority": 1}).status == 200
    shed = infer(oip, tensor("amount", [1.0]), headers=("X-Budget-Ms: 0.000001",))
    assert (shed.status, list(shed.json)) == (503, ["error"])


# -- bad input --------------------------------------------------------------------------------------------------------

AMOUNT = {"name": "amount", "datatype": "FP64", "shape": [1], "data": [1.0]}
DEEP = {"name": "amount", "datatype": "FP64", "shape": [1] * 9, "data": [1.0]}

WRONG = {
    "no JSON": b"{",
    "not UTF-8": b'{"inputs":[{"name":"\xff"}]}',
    "an array": b"[]",
    "no inputs": b"{}",
    "a key twice": b'{"inputs":[],"inputs":[%b]}' % json.dumps(AMOUNT).encode(),
    "an input's key twice": b'{"inputs":[{"name":"label","name":"amount","datatype":"FP64","shape":[1],"data":[1]}]}',
    "a parameter twice": b'{"inputs":[%b],"parameters":{"timeout":1,"timeout":1000000}}' % json.dumps(AMOUNT).encode(),
    "deep": b'{"inputs":[{"name":"amount","datatype":"FP64","shape":[1],"data":' + b"[" * 100_000,
    "no rows told": {"inputs": []},
    "an unknown input": {"inputs": [AMOUNT, tensor("colour", [1.0])]},
    "an input twice": {"inputs": [AMOUNT, AMOUNT]},
    "too many inputs": {"inputs": [AMOUNT] * 1_025},
    "too many outputs": {"inputs": [AMOUNT], "outputs": [{"name": "score"}] * 1_025},
    "an input missing": {"inputs": [tensor("label", ["a"], "BYTES")]},
    "more rows than the others": {"inputs": [AMOUNT, tensor("label", ["a", "b"], "BYTES")]},
    "fewer elements than the shape": {"inputs": [tensor("amount", [1.0], shape=[2])]},
    "more elements than the shape": {"inputs": [tensor("amount", [1.0, 2.0], shape=[1])]},
    "a huge shape": {"inputs": [tensor("amount", [1.0], shape=[2**31 - 1])]},
    "a shape beyond": {"inputs": [tensor("amount", [1.0], shape=[10**400])]},
    "a negative dimension": {"inputs": [tensor("amount", [1.0], shape=[-1])]},
    "two negative dimensions": {"inputs": [tensor("amount", [1.0], shape=[-1, -1])]},
    "no dimension": {"inputs": [AMOUNT | {"shape": []}]},
    "too many dimensions": {"inputs": [DEEP]},
    "a width of a field without": {"inputs": [tensor("amount", [1.0, 2.0], shape=[1, 2])]},
    "a fraction of a dimension": {"inputs": [AMOUNT | {"shape": [1.5]}]},
    "lists of another shape": {"inputs": [tensor("amount", [[1.0], [1.0, 2.0]], shape=[2, 1])]},
    "rows over the limit": {"inputs": [tensor("amount", [1.0] * 1_001)]},
    "an unknown datatype": {"inputs": [AMOUNT | {"datatype": "BF16"}]},
    "another datatype": {"inputs": [AMOUNT | {"datatype": "BYTES", "data": ["1.0"]}]},
    "data of another datatype": {"inputs": [AMOUNT | {"data": ["1.0"]}]},
    "a number out of its datatype": {"inputs": [AMOUNT | {"datatype": "UINT8", "data": [256]}]},
    "null": {"inputs": [AMOUNT | {"data": [None]}]},
    "NaN": b'{"inputs":[{"name":"amount","datatype":"FP64","shape":[1],"data":[NaN]}]}',
    "1e400": b'{"inputs":[{"name":"amount","datatype":"FP64","shape":[1],"data":[1e400]}]}',
    "no data": {"inputs": [{"name": "amount", "datatype": "FP64", "shape": [1]}]},
    "bytes that are not there": {"inputs": [FP64 | {"name": "amount", "parameters": {"binary_data_size": 8}}]},
    "data and bytes": {"inputs": [AMOUNT | {"parameters": {"binary_data_size": 0}}]},
    "negative bytes": {"inputs": [FP64 | {"name": "amount", "parameters": {"binary_data_size": -8}}]},
    "a text for bytes": {"inputs": [FP64 | {"name": "amount", "parameters": {"binary_data_size": "8"}}]},
    "an unknown output": {"inputs": [AMOUNT], "outputs": [{"name": "amount"}]},
    "an output twice": {"inputs": [AMOUNT], "outputs": [{"name": "score"}, {"name": "score"}]},
    "classes": {"inputs": [AMOUNT], "outputs": [{"name": "score", "parameters": {"classification": 3}}]},
    "a sequence": {"inputs": [AMOUNT], "parameters": {"sequence_id": 1, "sequence_start": True}},
    "shared memory": {"inputs": [FP64 | {"name": "amount", "parameters": {"shared_memory_region": "r"}}]},
    "a negative timeout": {"inputs": [AMOUNT], "parameters": {"timeout": -1}},
    "a timeout of a text": {"inputs": [AMOUNT], "parameters": {"timeout": "1s"}},
    "a parameter that is an object": {"inputs": [AMOUNT], "parameters": {"timeout": {}}},
    "a long id": {"inputs": [AMOUNT], "id": "x" * 129},
}  # fmt: skip


@pytest.mark.parametrize("body", WRONG.values(), ids=WRONG)
def test_tensor_that_is_none_is_refused(oip: RawClient, body: Any) -> None:
    """Whatever is wrong with a call is a 400 that says it; the connection goes on."""
    answer = oip.ask(post(body if isinstance(body, bytes) else json.dumps(body), path=LOG))
    assert (answer.status, list(answer.json)) == (400, ["error"]), answer.body
    assert outputs_of(infer(oip, tensor("amount", [1.0])))["score"] == [0.0]


WRONG_BYTES = {
    "NaN": binary("amount", struct.pack("<d", float("nan"))),
    "infinity": binary("amount", struct.pack("<d", float("-inf"))),
    "too few bytes": binary("amount", b"\0" * 7),
    "too many bytes": binary("amount", b"\0" * 9),
    "bytes of another shape": binary("amount", b"\0" * 8, shape=[2]),
    "bytes for a huge shape": binary("amount", b"\0" * 8, shape=[1_000, 2**30]),
    "a text that is longer than its tensor": binary("label", struct.pack("<I", 2**32 - 1) + b"a", "BYTES"),
    "a length cut short": binary("label", b"\1\0\0", "BYTES"),
    "more texts than told": binary("label", texts("a", "b"), "BYTES"),
    "fewer texts than told": binary("label", texts("a"), "BYTES", [2]),
    "a text that is not UTF-8": binary("label", texts(b"\xff"), "BYTES"),
}


@pytest.mark.parametrize("wrong", WRONG_BYTES.values(), ids=WRONG_BYTES)
def test_bytes_that_are_no_tensor_are_refused(oip: RawClient, wrong: tuple[Any, bytes]) -> None:
    """Bytes that lie about their number, length or shape, or hold no number, are a 400; the connection goes on."""
    good = (
        binary("amount", struct.pack("<d", 1.0))
        if wrong[0]["name"] == "label"
        else binary("label", texts("a"), "BYTES")
    )
    answer = infer(oip, good, wrong)
    assert (answer.status, list(answer.json)) == (400, ["error"]), answer.body
    assert wrong[0]["name"] in answer.json["error"] or "rows" in answer.json["error"]
    assert outputs_of(infer(oip, tensor("amount", [1.0])))["score"] == [0.0]


@pytest.mark.parametrize("length", ["-1", "9999", "x", "1e3", "", "0", "99999999999999999999999999"])
def test_length_that_lies_is_refused(oip: RawClient, length: str) -> None:
    """A length that is none, or that cuts the JSON elsewhere than at its end, is a 400."""
    told, data = binary("amount", struct.pack("<d", 1.0))
    text = json.dumps({"inputs": [told]}).encode()
    answer = oip.ask(post(text + data, f"Inference-Header-Content-Length: {length}", path=LOG))
    assert (answer.status, list(answer.json)) == (400, ["error"])
    cut = oip.ask(post(text + data, f"Inference-Header-Content-Length: {len(text) - 1}", path=LOG))
    rest = oip.ask(post(text + data + b"\0", f"Inference-Header-Content-Length: {len(text)}", path=LOG))
    assert (cut.status, rest.status) == (400, 400)
    assert "1 " in rest.json["error"] or "8 of the 9" in rest.json["error"]


def test_value_that_is_no_fields_is_told_with_its_row(oip: RawClient) -> None:
    """What the request type refuses is told with the input and the row."""
    inputs = [
        tensor("transaction_id", ["a", "b"], "BYTES"), tensor("customer_id", [1, 2], "INT64"),
        tensor("terminal_id", ["t", "t"], "BYTES"), tensor("amount", [1.0, 1e9]),
        tensor("time", ["2026-01-02T03:04:05Z"] * 2, "BYTES"),
    ]  # fmt: skip
    answer = infer(oip, *inputs, path="/v2/models/payment/infer")
    assert (answer.status, answer.json["error"]) == (400, "amount[1]: Expected `float` <= 100000.0")
    inputs[4] = tensor("time", ["yesterday", "2026-01-02T03:04:05Z"], "BYTES")
    assert infer(oip, *inputs, path="/v2/models/payment/infer").json["error"].startswith("time[0]: Invalid RFC3339")


@pytest.mark.parametrize("text", ['{"months":1,"months":2}', '{"months":1', '{"months":"1"}', '{"years":1}', "3"])
def test_object_that_is_none_is_refused(oip: RawClient, text: str) -> None:
    """The JSON of an object is held to what any body is: no key twice, no other key, no other type."""
    answer = infer(oip, tensor("amount", [1.0]), tensor("terms", [text], "BYTES"), path=KINDS)
    assert (answer.status, list(answer.json)) == (400, ["error"])
    assert "terms" in answer.json["error"]


def test_body_that_is_too_large_is_an_error_of_the_protocol(server: RunningServer) -> None:
    """It is refused by its head, before any of it is read."""
    with server.connect() as client:
        refused = client.ask(f"POST {LOG} HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n".encode())
        assert (refused.status, list(refused.json)) == (413, ["error"])


def test_failed_row_is_an_error_of_the_protocol(oip: RawClient) -> None:
    """A call with a row that the model cannot score is a 500; its neighbours in the batch are answered."""
    body = json.dumps({"inputs": [tensor("amount", [-1.0])]})
    good = json.dumps({"inputs": [tensor("amount", [1.0])]})
    oip.send(post(body, path=LOG) + post(good, path=LOG))
    failed, answered = oip.read(), oip.read()
    assert (failed.status, list(failed.json)) == (500, ["error"])
    assert outputs_of(answered)["score"] == [0.0]
