"""Callers of the Open Inference Protocol over gRPC, by its messages: what is told, tensors raw and typed, bad input."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from math import isnan, nan
from pathlib import Path
from typing import Any

import pytest
from http_server import PATIENCE_S, RELEASE, RunningServer, ample

from tailrace.pipeline import Pipeline
from tailrace.server.key_file import changing, make_key
from tailrace.server.keys import Keys

grpc = pytest.importorskip("grpc")
pytest.importorskip("grpc_health")

from oip_grpc_server import oip_over_grpc  # noqa: E402

from tailrace.server.oip.grpc_messages import MESSAGES, METHODS, SERVICE, message_class  # noqa: E402
from tailrace.server.request_ids import RequestIds  # noqa: E402

NAMES = ("log", "kinds", "ranking")
OPTIONS = [("grpc.enable_retries", 0)]
CLASSES = {name: message_class(name) for name in MESSAGES}
Infer = CLASSES["ModelInferRequest"]


@pytest.fixture(scope="module")
def http(pipeline_of: Callable[[str], Pipeline]) -> Iterator[RunningServer]:
    """Serve pipelines over HTTP; its engines and endpoints are those of gRPC."""
    with RunningServer([ample(pipeline_of(name)) for name in NAMES]) as server:
        yield server


@pytest.fixture(scope="module")
def ask(http: RunningServer) -> Iterator[Callable[..., Any]]:
    """Return what calls a method with a message, and returns the answer."""
    with oip_over_grpc(http) as address, grpc.insecure_channel(address, options=OPTIONS) as channel:
        methods = {
            name: channel.unary_unary(
                f"/{SERVICE}/{name}",
                lambda message: message if isinstance(message, bytes) else message.SerializeToString(),
                CLASSES[f"{name}Response"].FromString,
            )
            for name in METHODS
        }
        yield lambda name, message=None: methods[name](message or CLASSES[f"{name}Request"](), timeout=PATIENCE_S)


def refusal(ask: Callable[..., Any], message: Any, method: str = "ModelInfer") -> tuple[str, str]:
    """Return the status and the words that refuse a call."""
    with pytest.raises(grpc.RpcError) as caught:
        ask(method, message)
    return caught.value.code().name, caught.value.details()


def raw(*inputs: tuple[str, str, list[int], bytes], **more: Any) -> Any:
    """Return a call in raw bytes."""
    message = Infer(model_name="log", **more)
    for name, datatype, shape, content in inputs:
        message.inputs.add(name=name, datatype=datatype, shape=shape)
        message.raw_input_contents.append(content)
    return message


def typed(*inputs: tuple[str, str, list[int], str, list[Any]], **more: Any) -> Any:
    """Return a call in typed contents."""
    message = Infer(**({"model_name": "log"} | more))
    for name, datatype, shape, kind, values in inputs:
        getattr(message.inputs.add(name=name, datatype=datatype, shape=shape).contents, kind).extend(values)
    return message


def typed_outputs(answer: Any) -> dict[str, list[Any]]:
    """Return the outputs by name, flat."""
    found = {}
    for each in answer.outputs:
        ((_, values),) = each.contents.ListFields() or [(None, [])]
        found[each.name] = list(values)
    return found


AMOUNT = ("amount", "FP64", [1], struct.pack("<d", 4.0))
TYPED = ("amount", "FP64", [1], "fp64_contents", [4.0])


def test_server_and_models_are_told(http: RunningServer, ask: Callable[..., Any]) -> None:
    """Health and readiness, and what the server and a model are."""
    assert ask("ServerLive").live
    assert ask("ServerReady").ready
    assert ask("ModelReady", CLASSES["ModelReadyRequest"](name="log", version=RELEASE)).ready
    assert not ask("ModelReady", CLASSES["ModelReadyRequest"](name="absent")).ready
    assert ask("ServerMetadata").extensions == ["binary_tensor_data", "schedule_policy"]
    model = ask("ModelMetadata", CLASSES["ModelMetadataRequest"](name="log"))
    assert (model.name, list(model.versions), model.platform) == ("log", [RELEASE], "tailrace")
    told = [(each.name, each.datatype, list(each.shape)) for each in model.inputs]
    assert told == [("amount", "FP64", [-1]), ("label", "BYTES", [-1])]
    http.on_loop(http.readiness.set, False)
    try:
        assert (ask("ServerLive").live, ask("ServerReady").ready) == (True, False)
    finally:
        http.on_loop(http.readiness.set, True)


def test_raw_call_is_answered_raw(ask: Callable[..., Any]) -> None:
    """Two rows in bytes, of the version that was named; the id comes back, and the outputs that were asked for."""
    label = struct.pack("<I", 1) + b"a" + struct.pack("<I", 2) + "ü".encode()
    message = raw(
        ("amount", "FP32", [2, 1], struct.pack("<2f", 1.0, 4.0)), ("label", "BYTES", [2], label),
        id="7", model_version=RELEASE,
    )  # fmt: skip
    for name in ("label", "score"):
        message.outputs.add(name=name)
    answer = ask("ModelInfer", message)
    assert (answer.model_name, answer.model_version, answer.id) == ("log", RELEASE, "7")
    assert [(each.name, each.datatype, list(each.shape)) for each in answer.outputs] == [
        ("label", "BYTES", [2]), ("score", "FP64", [2]),
    ]  # fmt: skip
    assert answer.raw_output_contents[0] == label
    assert struct.unpack("<2d", answer.raw_output_contents[1]) == pytest.approx((0.0, 1.386294), abs=1e-6)


def test_typed_call_is_answered_typed(ask: Callable[..., Any]) -> None:
    """Each datatype has its own contents; None is NaN among numbers, and empty among texts."""
    message = typed(
        ("amount", "FP32", [2], "fp32_contents", [1.0, 4.0]),
        ("count", "INT8", [2], "int_contents", [3, 4]),
        ("flag", "BOOL", [2], "bool_contents", [True, False]),
        ("label", "BYTES", [2], "bytes_contents", [b"a", "ü".encode()]),
        ("level", "UINT64", [2], "uint64_contents", [2, 1]),
        ("maybe", "FP64", [2], "fp64_contents", [nan, 0.5]),
        ("numbers", "FP64", [2, 2], "fp64_contents", [1.0, 2.0, 3.0, 4.0]),
        model_name="kinds",
    )
    found = typed_outputs(ask("ModelInfer", message))
    assert (found["count"], found["flag"], found["level"]) == ([3, 4], [True, False], [2, 1])
    assert found["label"] == [b"a", "ü".encode()]
    assert (found["maybe"][1], isnan(found["maybe"][0])) == (0.5, True)
    assert found["numbers"] == [1.0, 2.0, 3.0, 4.0]
    assert (found["time"], found["table"]) == ([b"", b""], [b"{}", b"{}"])


def test_messages_that_begin_alike_are_told_apart(ask: Callable[..., Any]) -> None:
    """What is kept of messages is kept of what stands before their raw contents alone, in whatever order they come."""
    label = struct.pack("<I", 1) + b"a"
    one = raw(AMOUNT, ("label", "BYTES", [1], label)).SerializeToString()
    contents = Infer(raw_input_contents=[AMOUNT[3], label]).SerializeToString()
    begin = one[: -len(contents)]
    assert one == begin + contents
    swapped = raw(("label", "BYTES", [1], label), AMOUNT).SerializeToString()
    turned = Infer(raw_input_contents=[label, AMOUNT[3]]).SerializeToString()
    split = Infer(raw_input_contents=[AMOUNT[3]]).SerializeToString()
    rest = Infer(raw_input_contents=[label]).SerializeToString()
    for message in (one, contents + begin, split + begin + rest, one, swapped, turned + swapped[: -len(turned)], one):
        answer = ask("ModelInfer", message)
        assert [each.name for each in answer.outputs] == ["score", "decision", "label"]
        assert struct.unpack("<d", answer.raw_output_contents[0])[0] == pytest.approx(1.386294, abs=1e-6)
        assert answer.raw_output_contents[2] == label
    wrong = begin + Infer(raw_input_contents=[label, AMOUNT[3]]).SerializeToString()
    assert refusal(ask, wrong)[0] == "INVALID_ARGUMENT"
    assert len(ask("ModelInfer", one).outputs) == 3


def test_calls_of_both_transports_share_a_batch(http: RunningServer, ask: Callable[..., Any]) -> None:
    """What comes over gRPC is counted with what comes over HTTP, and answered by the same engine."""
    http.settle()  # a batch is counted after its answers are on their way
    before = http.batches("log")
    ask("ModelInfer", raw(AMOUNT))
    http.settle()
    assert http.batches("log") == before + 1


def test_timeout_is_the_budget(ask: Callable[..., Any]) -> None:
    """Microseconds that are too few for any batch are refused as shed, as by the deadline of the call."""
    message = raw(AMOUNT)
    message.parameters["timeout"].int64_param = 1
    assert refusal(ask, message)[0] == "UNAVAILABLE"
    message.parameters["timeout"].int64_param = 10_000_000
    message.parameters["priority"].uint64_param = 1
    assert len(ask("ModelInfer", message).outputs) == 3


def with_parameter(name: str, kind: str, value: Any) -> Any:
    """Return a call with one parameter."""
    message = raw(AMOUNT)
    setattr(message.parameters[name], kind, value)
    return message


def with_output(name: str, **parameters: int) -> Any:
    """Return a call that asks for an output."""
    message = raw(AMOUNT)
    output = message.outputs.add(name=name)
    for parameter, value in parameters.items():
        output.parameters[parameter].int64_param = value
    return message


def both_contents() -> Any:
    """Return a call with an input in typed contents and in raw ones."""
    message = typed(TYPED)
    message.raw_input_contents.append(AMOUNT[3])
    return message


WRONG = {
    "no message": (b"\xff\xff", "INVALID_ARGUMENT"),
    "an unknown model": (Infer(model_name="absent"), "NOT_FOUND"),
    "an unknown version": (raw(AMOUNT, model_version="2"), "NOT_FOUND"),
    "no inputs": (raw(), "INVALID_ARGUMENT"),
    "an unknown input": (raw(AMOUNT, ("colour", "FP64", [1], AMOUNT[3])), "INVALID_ARGUMENT"),
    "an input twice": (raw(AMOUNT, AMOUNT), "INVALID_ARGUMENT"),
    "a negative dimension": (raw(("amount", "FP64", [-1], AMOUNT[3])), "INVALID_ARGUMENT"),
    "two negative dimensions": (raw(("amount", "FP64", [-1, -1], AMOUNT[3])), "INVALID_ARGUMENT"),
    "a huge shape": (raw(("amount", "FP64", [2**62, 4], AMOUNT[3])), "INVALID_ARGUMENT"),
    "no dimension": (raw(("amount", "FP64", [], AMOUNT[3])), "INVALID_ARGUMENT"),
    "too many dimensions": (raw(("amount", "FP64", [1] * 9, AMOUNT[3])), "INVALID_ARGUMENT"),
    "too few bytes": (raw(("amount", "FP64", [1], AMOUNT[3][:7])), "INVALID_ARGUMENT"),
    "too many bytes": (raw(("amount", "FP64", [1], AMOUNT[3] * 2)), "INVALID_ARGUMENT"),
    "NaN": (raw(("amount", "FP64", [1], struct.pack("<d", nan))), "INVALID_ARGUMENT"),
    "NaN in contents": (typed(("amount", "FP64", [1], "fp64_contents", [nan])), "INVALID_ARGUMENT"),
    "an unknown datatype": (raw(("amount", "BF16", [1], b"\0\0")), "INVALID_ARGUMENT"),
    "another datatype": (raw(("amount", "BYTES", [1], struct.pack("<I", 0))), "INVALID_ARGUMENT"),
    "contents of another datatype": (typed(("amount", "FP64", [1], "fp32_contents", [1.0])), "INVALID_ARGUMENT"),
    "too many contents": (typed(("amount", "FP64", [1], "fp64_contents", [1.0, 2.0])), "INVALID_ARGUMENT"),
    "no contents": (typed(("amount", "FP64", [1], "fp64_contents", [])), "INVALID_ARGUMENT"),
    "a number out of its datatype": (typed(("amount", "INT8", [1], "int_contents", [300])), "INVALID_ARGUMENT"),
    "typed and raw contents": (both_contents(), "INVALID_ARGUMENT"),
    "fewer raw contents than inputs": (
        Infer(model_name="log", inputs=[*typed(TYPED).inputs, *typed(TYPED).inputs], raw_input_contents=[AMOUNT[3]]),
        "INVALID_ARGUMENT",
    ),
    "a text that is longer than its tensor": (
        raw(AMOUNT, ("label", "BYTES", [1], struct.pack("<I", 2**32 - 1))), "INVALID_ARGUMENT"
    ),
    "a text that is not UTF-8": (raw(AMOUNT, ("label", "BYTES", [1], b"\1\0\0\0\xff")), "INVALID_ARGUMENT"),
    "an unknown output": (with_output("amount"), "INVALID_ARGUMENT"),
    "classes": (with_output("score", classification=2), "INVALID_ARGUMENT"),
    "a sequence": (with_parameter("sequence_id", "int64_param", 5), "INVALID_ARGUMENT"),
    "a negative timeout": (with_parameter("timeout", "int64_param", -1), "INVALID_ARGUMENT"),
    "a timeout of a text": (with_parameter("timeout", "string_param", "1s"), "INVALID_ARGUMENT"),
    "too many inputs": (raw(*[AMOUNT] * 1_025), "INVALID_ARGUMENT"),
    "a long id": (raw(AMOUNT, id="x" * 129), "INVALID_ARGUMENT"),
    "a row that cannot be scored": (raw(("amount", "FP64", [1], struct.pack("<d", -1.0))), "INTERNAL"),
}  # fmt: skip


@pytest.mark.parametrize(("message", "code"), WRONG.values(), ids=WRONG)
def test_call_that_is_none_is_refused(ask: Callable[..., Any], message: Any, code: str) -> None:
    """Whatever is wrong with a call has its status and says so; the next one is answered."""
    found, details = refusal(ask, message)
    assert (found, bool(details)) == (code, True), details
    assert len(ask("ModelInfer", raw(AMOUNT)).outputs) == 3


def test_id_of_a_message_is_the_call_s(http: RunningServer) -> None:
    """Where calls are named: the message's, where metadata can have it, else one of the server's."""
    with (
        oip_over_grpc(http, ids=RequestIds()) as address,
        grpc.insecure_channel(address, options=OPTIONS) as channel,
    ):
        infer = channel.unary_unary(
            f"/{SERVICE}/ModelInfer", Infer.SerializeToString, CLASSES["ModelInferResponse"].FromString
        )
        found = {}
        for told in ("tensors-1", "", "ü"):
            answer, call = infer.with_call(raw(AMOUNT, id=told), timeout=PATIENCE_S)
            assert answer.id == told
            found[told] = dict(call.trailing_metadata())["x-request-id"]
    assert found["tensors-1"] == "tensors-1"
    assert len({*found.values(), "", "ü"}) == 5


def many_tensors(count: int) -> Any:
    """Return a call of many inputs, all but one of which the model has not, and of as many outputs."""
    message = raw(AMOUNT, *[(f"x{number}", "FP64", [1], AMOUNT[3]) for number in range(count - 1)])
    for _ in range(count):
        message.outputs.add(name="score").parameters["binary_data"].bool_param = True
    return message


@pytest.mark.parametrize(
    ("message", "what"),
    [
        (b"\x0a\x03log" + b"\x2a\x00" * 200_000, "over 12288 fields"),  # inputs
        (b"\x0a\x03log" + b"\xaa\x00\x00" * 200_000, "over 12288 fields"),  # the same, by another length of their tag
        (b"\x0a\x03log" + b"\x32\x00" * 200_000, "over 12288 fields"),  # outputs
        (b"\x0a\x03log" + b"".join(b"\x22\x06\x0a\x04%04x" % n for n in range(50_000)), "over 12288 fields"),
        (b"\x2a\xc0\xcf\x24" + b"\x18\x01" * 300_000, "over 12288 fields"),  # dimensions of one input
        (b"\x2a\xc0\xcf\x24" + b"\x22\x00" * 300_000, "over 12288 fields"),  # parameters of one input
        (b"\x7b\x7c" * 100_000, "no ModelInferRequest"),  # groups
        (b"\xff" * 100_000, "no ModelInferRequest"),
        (b"\x0a\x03log\x3a\xff\xff\x01" + b"x" * 20_000, "no ModelInferRequest"),
        (many_tensors(1_024), "no input 'x0'"),  # is read: as many as there may be
    ],
)
def test_message_of_more_fields_than_a_call_has_is_not_read(ask: Callable[..., Any], message: Any, what: str) -> None:
    """What two bytes each would have the library make half a million objects of is counted first."""
    code, details = refusal(ask, message)
    assert (code, what in details) == ("INVALID_ARGUMENT", True), details


def test_unknown_model_has_no_metadata(ask: Callable[..., Any]) -> None:
    """Metadata of a model that is not there are not found, and it is told which are."""
    code, details = refusal(ask, CLASSES["ModelMetadataRequest"](name="absent"), "ModelMetadata")
    assert (code, "log, kinds, ranking" in details) == ("NOT_FOUND", True)


def test_key_opens_a_model_as_it_does_over_http(http: RunningServer, tmp_path: Path) -> None:
    """To who has none, not even absent models are told; to who has one for another, what there is, but no answer."""
    keys, secrets = tmp_path / "keys.json", {}
    with changing(keys, create=True) as known:
        for scope in ("pipelines/log", "pipelines/kinds"):
            secrets[scope], key = make_key("caller", (scope,))
            known.append(key)
    asked = {
        "ModelInfer": raw(AMOUNT),
        "ModelMetadata": CLASSES["ModelMetadataRequest"](name="log"),
        "ModelReady": CLASSES["ModelReadyRequest"](name="log"),
    }
    absent = {
        "ModelInfer": Infer(model_name="absent"),
        "ModelMetadata": CLASSES["ModelMetadataRequest"](name="absent"),
        "ModelReady": CLASSES["ModelReadyRequest"](name="absent"),
    }

    def code_of(channel: Any, method: str, message: Any, scope: str = "") -> str:
        metadata = [("x-api-key", secrets[scope])] if scope else []
        call = channel.unary_unary(f"/{SERVICE}/{method}", message.__class__.SerializeToString)
        try:
            call(message, metadata=metadata, timeout=PATIENCE_S)
        except grpc.RpcError as error:
            return str(error.code().name)
        return "OK"

    with (
        oip_over_grpc(http, Keys(keys, http.recorder.record_failure)) as address,
        grpc.insecure_channel(address, options=OPTIONS) as channel,
    ):
        assert code_of(channel, "ServerLive", CLASSES["ServerLiveRequest"]()) == "OK"
        for messages in (asked, absent):
            assert {code_of(channel, *each) for each in messages.items()} == {"UNAUTHENTICATED"}
        broken = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        for metadata, code in (
            ([], "UNAUTHENTICATED"),
            ([("x-api-key", secrets["pipelines/log"])], "INVALID_ARGUMENT"),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                broken(b"\xff", metadata=metadata, timeout=PATIENCE_S)  # is not read before its caller is known
            assert caught.value.code().name == code
        assert [code_of(channel, *each, "pipelines/log") for each in asked.items()] == ["OK"] * 3
        assert [code_of(channel, *each, "pipelines/kinds") for each in asked.items()] == [
            "PERMISSION_DENIED",
            "OK",
            "OK",
        ]
        assert [code_of(channel, *each, "pipelines/log") for each in absent.items()] == ["NOT_FOUND", "NOT_FOUND", "OK"]
