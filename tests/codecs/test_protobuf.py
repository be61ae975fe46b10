"""Protocol Buffers say no more than JSON: what protoc sends is the same request, what it reads the same answer."""

from __future__ import annotations

import datetime as dt
import math
import struct
from collections.abc import Callable
from types import ModuleType
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proto_types import Decision, Line, Order, compiled, numbers_of
from tailrace.codecs.json import JsonCodec
from tailrace.codecs.proto_lock import lock_path, write_lock
from tailrace.codecs.proto_values import varint_of
from tailrace.codecs.protobuf import ARRAY_TAG, ProtobufCodec, protobuf_codecs
from tailrace.errors import InvalidRequestError, MalformedBodyError, SetupError
from tailrace.request.schema import Request

LOCK = numbers_of(Order, Decision)
CODEC = ProtobufCodec(Order, Decision, LOCK, array_max=20)
JSON = JsonCodec(Order, array_max=20)
NUMBERS = {name: field.number for name, field in LOCK.messages["Order"].fields.items()}

finite = st.floats(allow_nan=False, allow_infinity=False)
int64 = st.integers(-(2**63), 2**63 - 1)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
times = st.datetimes(dt.datetime(1, 1, 2), dt.datetime(9999, 12, 30), timezones=st.just(dt.UTC))
lines = st.fixed_dictionaries({"price": finite}, optional={"count": int64})
orders = st.fixed_dictionaries(
    {"name": texts, "amount": st.floats(0.01, 1000), "weight": finite, "height": st.none() | finite},
    optional={
        "count": int64,
        "vip": st.booleans(),
        "kind": st.sampled_from(["one", "two-fold"]),
        "card": st.sampled_from(["debit", "credit"]),
        "time": times,
        "day": st.dates().map(str),
        "id": st.uuids().map(str),
        "secret": st.binary(max_size=20),
        "first": lines,
        "lines": st.lists(lines, max_size=3),
        "tags": st.lists(texts, max_size=3),
        "marks": st.lists(int64 | st.integers(0, 127), max_size=5),
        "kinds": st.lists(st.sampled_from(["one", "two-fold"]), max_size=3),
        "vector": st.lists(finite, min_size=3, max_size=3),
        "shares": st.dictionaries(texts, finite, max_size=3),
        "parts": st.dictionaries(texts, lines, max_size=3),
    },
)


@pytest.fixture(scope="module")
def messages(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """What protoc makes of the exported file."""
    return compiled(tmp_path_factory.mktemp("proto"), Order, Decision)


def message_of(messages: ModuleType, order: dict[str, Any]) -> Any:
    """Return protoc's message of a request."""
    kinds = {"one": messages.Order.KIND_ONE, "two-fold": messages.Order.KIND_TWO_FOLD}
    many = {"one": messages.Order.KINDS_ONE, "two-fold": messages.Order.KINDS_TWO_FOLD}
    cards = {"debit": messages.Order.CARD_DEBIT, "credit": messages.Order.CARD_CREDIT}
    given = {key: value for key, value in order.items() if value is not None and key not in ("parts", "time")}
    if "kind" in given:
        given["kind"] = kinds[given["kind"]]
    if "card" in given:
        given["card"] = cards[given["card"]]
    if "kinds" in given:
        given["kinds"] = [many[each] for each in given["kinds"]]
    message = messages.Order(**given)
    if "time" in order:
        message.time.FromDatetime(order["time"])
    for key, part in order.get("parts", {}).items():
        message.parts[key].CopyFrom(messages.Line(**part))
    return message


@given(order=orders)
def test_request_is_the_same_as_of_json(messages: ModuleType, order: dict[str, Any]) -> None:
    """Whatever is there or left out, alone or in an array."""
    message = message_of(messages, order)
    expected = JSON.decode(msgspec.json.encode(order))
    found = CODEC.decode(message.SerializeToString())
    assert not isinstance(found, Exception), found
    assert msgspec.to_builtins(found) == msgspec.to_builtins(expected)
    many = CODEC.decode(messages.OrderArray(items=[message, message]).SerializeToString())
    assert msgspec.to_builtins(many) == msgspec.to_builtins([expected] * 2)
    assert type(found) is type(many[0]) is CODEC.request_type


answers = st.builds(
    Decision,
    decision=st.sampled_from(["allow", "block"]),
    score=finite,
    reasons=st.lists(texts, max_size=3),
    time=st.none() | times,
    first=st.none() | st.builds(Line, price=finite, count=int64),
    shares=st.dictionaries(texts, finite, max_size=3),
    vector=st.lists(finite, max_size=5),
    marks=st.lists(int64, max_size=5),
)


@given(answer=answers)
def test_answer_is_what_protoc_reads(messages: ModuleType, answer: Decision) -> None:
    """Field by field, None as what is not there; and an array item by item."""
    from google.protobuf.unknown_fields import UnknownFieldSet

    read = messages.Decision.FromString(CODEC.encode(answer))
    assert messages.Decision.DecisionValue.Name(read.decision) == f"DECISION_{answer.decision.upper()}"
    assert (read.score, list(read.reasons), dict(read.shares)) == (answer.score, answer.reasons, answer.shares)
    assert (list(read.vector), list(read.marks)) == (answer.vector, answer.marks)
    assert (read.time.ToDatetime(dt.UTC) if read.HasField("time") else None) == answer.time
    assert (Line(read.first.price, read.first.count) if read.HasField("first") else None) == answer.first
    assert not len(UnknownFieldSet(read))
    array = messages.DecisionArray.FromString(CODEC.encode_each([[answer, answer]])[0])
    assert list(array.items) == [read, read]


@pytest.mark.parametrize("count", [2**63, -(2**63) - 1, 2**64 + 5])
def test_whole_number_beyond_64_bits_is_no_other_in_an_answer(count: int) -> None:
    """It fails, where it would be read as one that is as wrong as can be."""
    with pytest.raises(OverflowError):
        CODEC.encode(Decision("allow", 0.5, [], marks=[count]))


def test_number_without_an_end_is_left_out_of_an_answer(messages: ModuleType) -> None:
    """Where JSON has null."""
    read = messages.Decision.FromString(CODEC.encode(Decision("allow", math.nan, [])))
    assert not read.HasField("score")


def field(name: str, wire: int, value: bytes, numbers: dict[str, int] = NUMBERS) -> bytes:
    """Return the bytes of a field."""
    return varint_of(numbers[name] << 3 | wire) + value


def double(value: float) -> bytes:
    """Return the bytes of a number."""
    return struct.pack("<d", value)


def text(value: bytes) -> bytes:
    """Return bytes behind their length."""
    return varint_of(len(value)) + value


WHOLE = field("name", 2, text(b"a")) + field("amount", 1, double(1.5)) + field("weight", 1, double(2.5))
MANY = varint_of(1 << 34)


@pytest.mark.parametrize(
    "value", [0, 1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152, 2**31, 2**63 - 1, -1, -(2**63)]
)
def test_whole_number_of_any_length_is_read(value: int) -> None:
    """In as few bytes as it needs, and in more; at the very end of a body too, where it may be cut short."""
    packed = varint_of(value & 2**64 - 1)
    for sent in (packed, packed[:-1] + bytes([packed[-1] | 128]) + b"\0")[: 1 if len(packed) == 10 else 2]:
        body = WHOLE + field("count", 0, sent)
        assert CODEC.decode(body).count == value
        assert isinstance(CODEC.decode(body[:-1]), MalformedBodyError)
    assert isinstance(CODEC.decode(body + field("count", 0, packed)), MalformedBodyError)


@pytest.mark.parametrize(
    ("body", "where", "what"),
    [
        (b"", "$", "missing required field `name`"),
        (field("name", 2, text(b"a")) + field("weight", 1, double(1)), "$", "missing required field `amount`"),
        (WHOLE + field("first", 2, text(b"")), "$.first", "missing required field `price`"),
        (WHOLE + field("lines", 2, text(b"")), "$.lines[0]", "missing required field `price`"),
        (WHOLE[:-9] + field("weight", 1, double(math.nan)), "$.weight", "finite"),
        (WHOLE + field("height", 1, double(math.inf)), "$.height", "finite"),
        (WHOLE + field("vector", 2, text(double(1) + double(-math.inf))), "$.vector", "finite"),
        (WHOLE + field("lines", 2, text(b"\x09" + double(math.nan))), "$.lines[0].price", "finite"),
        (WHOLE + field("shares", 2, text(b"\x0a\1a\x11" + double(math.inf))), "$.shares[...].value", "finite"),
        (WHOLE + field("vector", 2, text(double(1))), "$.vector", "length >= 3"),
        (WHOLE + varint_of(1999 << 3) + b"\0", "$", "unknown field `1999`"),
        (WHOLE + field("first", 2, text(b"\x28\0")), "$.first", "unknown field `5`"),
        (WHOLE + field("count", 2, text(b"a")), "$", "wire type"),
        (WHOLE + field("kind", 0, b"\0"), "$.kind", "Expected `str`"),
        (WHOLE + field("kinds", 2, text(b"\1\7")), "$.kinds[1]", "Expected `str`"),
        (WHOLE + field("vip", 0, b"\2"), "$.vip", "Expected `bool`"),
        (WHOLE + field("id", 2, text(b"x")), "$.id", "UUID"),
        (WHOLE + field("time", 2, text(b"\x10" + varint_of(10**9))), "$.time", "Timestamp"),
        (WHOLE + field("time", 2, text(b"\x08" + varint_of(2**62))), "$.time", "Timestamp"),
        (field("name", 2, text(b"a")) + field("amount", 1, double(5000)) + WHOLE[-9:], "$.amount", "<= 1000"),
        ((ARRAY_TAG + text(WHOLE)) * 21, "$", "length <= 20"),
        (ARRAY_TAG + text(WHOLE) + ARRAY_TAG + text(WHOLE[:3]), "$[1]", "missing"),
        (ARRAY_TAG + text(WHOLE) + ARRAY_TAG + text(WHOLE + field("vip", 0, b"\2")), "$[1].vip", "bool"),
    ],
)
def test_fault_carries_its_path(body: bytes, where: str, what: str) -> None:
    """A 422, as of JSON."""
    refusal = CODEC.decode(body)
    assert isinstance(refusal, InvalidRequestError), refusal
    assert refusal.where == where
    assert what in refusal.what


@pytest.mark.parametrize(
    "body",
    [
        WHOLE + WHOLE[:3],
        WHOLE + WHOLE[3:12],
        WHOLE + WHOLE[3:],
        WHOLE + field("first", 2, text(b"\x09" + double(1) + b"\x09" + double(1))),
        WHOLE + 2 * field("first", 2, text(b"\x09" + double(1))),
        WHOLE + 2 * field("time", 2, text(b"")),
        WHOLE + 2 * field("shares", 2, text(b"\x0a\1a\x11" + double(1))),
        WHOLE[:-1],
        WHOLE + b"\x09",
        WHOLE + field("name", 2, b""),
        field("name", 2, MANY),
        WHOLE + field("lines", 2, MANY),
        WHOLE + field("marks", 2, MANY),
        WHOLE + field("parts", 2, MANY),
        WHOLE + field("first", 2, b"\1\x09" + double(1)),
        WHOLE + field("secret", 2, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
        WHOLE + field("count", 0, b"\xff" * 9 + b"\x02"),
        WHOLE + field("count", 0, b"\x80" * 5),
        WHOLE + field("vector", 2, text(b"1234567")),
        WHOLE + field("tags", 2, text(b"\xff")),
        WHOLE + b"\0", WHOLE + b"\x07", WHOLE + b"\x0b", WHOLE + b"\x0c", b"\xff" * 20,
        ARRAY_TAG, ARRAY_TAG + MANY, ARRAY_TAG + text(WHOLE) + WHOLE, ARRAY_TAG + text(WHOLE)[:-1],
        b'{"name":"a","amount":1.5,"weight":1}',
    ],
)  # fmt: skip
def test_body_that_may_be_read_otherwise_is_refused(body: bytes) -> None:
    """A field that is there twice, a length that lies, what is no message: a 400, and nothing reserved for it."""
    assert isinstance(CODEC.decode(body), MalformedBodyError | InvalidRequestError)
    if body.startswith(WHOLE + WHOLE[:2]):
        assert isinstance(CODEC.decode(body), MalformedBodyError)


@given(st.binary(max_size=80), st.integers(0, len(WHOLE)))
def test_any_bytes_are_a_request_or_a_refusal(body: bytes, at: int) -> None:
    """Nothing else comes out."""
    for each in (body, WHOLE[:at] + body, WHOLE[:at] + body + WHOLE[at:], ARRAY_TAG + text(WHOLE + body)):
        found = CODEC.decode(each)
        assert isinstance(found, CODEC.request_type | list | MalformedBodyError | InvalidRequestError)


@pytest.mark.parametrize(
    "body",
    [
        field("tags", 2, b"\0") * 400_000,
        field("lines", 2, text(b"\x09" + double(1) + b"\x10\1")) * 60_000,
        field("marks", 2, text(b"\x81\1" * 400_000)),
        field("marks", 2, text(b"\x81\1" * 40_000)) * 2,
        b"".join(field("shares", 2, text(b"\x0a" + text(b"%d" % i))) for i in range(35_000)),
    ],
    ids=["list", "messages", "packed", "packed twice", "map"],
)
def test_body_of_too_many_fields_is_refused(body: bytes) -> None:
    """It would keep all others waiting; what is read after it is counted anew."""
    refusal = CODEC.decode(WHOLE + body)
    assert isinstance(refusal, InvalidRequestError)
    assert "at most 32768 fields" in refusal.what
    assert CODEC.decode(WHOLE).name == "a"


class Node(Request):
    """Within itself."""

    below: Node | None = None


def test_message_as_deep_as_a_body_allows_is_refused() -> None:
    """No stack is used up."""
    body = b""
    for _ in range(20_000):
        body = b"\x0a" + text(body)
        if len(body) > 60_000:
            break
    codec = ProtobufCodec(Node, Decision, numbers_of(Node, Decision), array_max=1)
    assert isinstance(codec.decode(body), MalformedBodyError)
    assert codec.decode(b"\x0a\x02\x0a\0").below.below.below is None


class Loose(Request, forbid_unknown_fields=False):
    amount: float


def test_unknown_field_is_passed_over_where_the_type_allows() -> None:
    """Of every wire type; and nothing is passed over that is not there."""
    codec = ProtobufCodec(Loose, Decision, numbers_of(Loose, Decision), array_max=1)
    more = (b"\x10\xff\1", b"\x11" + bytes(8), b"\x12" + text(b"abc"), b"\x15" + bytes(4))
    for each in more:
        for body in (b"\x09" + double(1.5) + each, each + b"\x09" + double(1.5), each * 2 + b"\x09" + double(1.5)):
            assert codec.decode(body).amount == 1.5
        assert isinstance(codec.decode(b"\x09" + double(1.5) + each[:-1]), MalformedBodyError)


wide = st.lists(st.floats(allow_nan=False, allow_infinity=False) | st.none(), min_size=40, max_size=40)
Wide: Any = msgspec.defstruct(
    "Wide", [(f"f{i}", float, 0.0) for i in range(40)], bases=(Request,), kw_only=True, frozen=True, gc=False
)
WIDE = ProtobufCodec(Wide, Decision, numbers_of(Wide, Decision), array_max=1)


@given(wide, st.data())
def test_numbers_read_at_once_are_those_read_alone(values: list[float | None], data: st.DataObject) -> None:
    """Whichever are left out, in whatever order; with one twice it is refused."""
    fields = [(i, value) for i, value in enumerate(values) if value is not None]
    if data.draw(st.booleans()):
        fields = data.draw(st.permutations(fields))
    parts = [varint_of(i + 1 << 3 | 1) + double(value) for i, value in fields]
    found = WIDE.decode(b"".join(parts))
    assert msgspec.to_builtins(found) == {f"f{i}": 0.0 for i in range(40)} | {f"f{i}": value for i, value in fields}
    if parts:
        parts.insert(data.draw(st.integers(0, len(parts))), data.draw(st.sampled_from(parts)))
        assert isinstance(WIDE.decode(b"".join(parts)), MalformedBodyError)


def test_pipeline_without_numbers_has_no_codec(tmp_path: Any) -> None:
    """And one whose types have changed since is not served."""
    codecs: Callable[..., Any] = protobuf_codecs
    assert codecs("p", Order, Decision, tmp_path, array_max=5) == []
    write_lock(LOCK, lock_path(tmp_path, "p"))
    assert [each.content_type for each in codecs("p", Order, Decision, tmp_path, array_max=5)] == [
        b"application/x-protobuf", b"application/protobuf",
    ]  # fmt: skip
    with pytest.raises(SetupError, match="changed since"):
        codecs("p", Loose, Decision, tmp_path, array_max=5)
