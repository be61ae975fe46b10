"""MessagePack says no more than JSON: the same requests come out, and what JSON cannot say is refused."""

from __future__ import annotations

import datetime as dt
import math
import struct
from enum import Enum
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.codecs.duplicates import PATH_MAX
from tailrace.codecs.json import JsonCodec
from tailrace.codecs.msgpack import MsgpackCodec
from tailrace.codecs.msgpack_keys import find_key_twice, head_of_map, keys_of_map
from tailrace.errors import InvalidRequestError, MalformedBodyError
from tailrace.request.schema import Field, Request

pack = msgspec.msgpack.encode


class Kind(Enum):
    ONE = "one"
    TWO = "two"


class Payment(Request):
    """Flat: each key of a body is a field of it."""

    name: str
    amount: Annotated[float, Field(gt=0, le=1000)]
    time: dt.datetime | None = None
    kind: Literal["card", "cash"] = "card"
    vip: bool = False
    tags: list[str] = msgspec.field(default_factory=list)


class Order(Request):
    """With keys of its own in a field."""

    kind: Kind
    extra: dict[str, Any] = msgspec.field(default_factory=dict)


class Loose(Request, forbid_unknown_fields=False):
    amount: float


def codecs(request_type: type[Request]) -> tuple[JsonCodec, MsgpackCodec]:
    """Return both codecs of a request type."""
    return JsonCodec(request_type, array_max=20), MsgpackCodec(request_type, array_max=20)


JSON, MSGPACK = codecs(Payment)
ORDER, LOOSE = codecs(Order)[1], codecs(Loose)[1]

payments = st.fixed_dictionaries(
    {"name": st.text(max_size=40), "amount": st.floats(0.01, 1000)},
    optional={
        "kind": st.sampled_from(["card", "cash"]),
        "vip": st.booleans(),
        "tags": st.lists(st.text(max_size=3), max_size=20),
        "time": st.none() | st.just("2026-01-02T03:04:05Z"),
    },
)


@given(payments | st.lists(payments, max_size=20))
def test_request_is_the_same_as_of_json(value: Any) -> None:
    """Whatever is there or left out, alone or in an array."""
    found, expected = MSGPACK.decode(pack(value)), JSON.decode(msgspec.json.encode(value))
    assert msgspec.to_builtins(found) == msgspec.to_builtins(expected)
    assert type(found) is (list if isinstance(value, list) else MSGPACK.request_type)


@given(payments, st.data())
def test_key_that_is_there_twice_is_refused(value: dict[str, Any], data: st.DataObject) -> None:
    """In any place, alone or in an array, and with a length that is written otherwise."""
    key = data.draw(st.sampled_from(sorted(value)))
    name, wide = pack(key), data.draw(st.booleans())
    again = (b"\xda" + struct.pack(">H", len(key)) + key.encode() if wide else name) + pack(value[key])
    entries = [pack(each) + pack(value[each]) for each in value]
    entries.insert(data.draw(st.integers(0, len(entries))), again)
    body = bytes([0x80 | len(entries)]) + b"".join(entries)
    for whole in (body, b"\x92" + pack(value) + body):
        refusal = MSGPACK.decode(whole)
        assert isinstance(refusal, MalformedBodyError)
        assert key in refusal.what


@pytest.mark.parametrize("codec", [ORDER, LOOSE], ids=["order", "loose"])
def test_key_twice_is_found_in_any_map(codec: MsgpackCodec) -> None:
    """In a map within a field, and among fields that the type does not name."""
    two = b"\x82" + pack("a") + pack(1) + pack("a") + pack(2)
    well = b"\x82" + pack("a") + pack([1, {"a": 1}]) + pack("b") + pack(b"\0" * 300)
    for inner, refused in ((two, True), (well, False)):
        first = pack("kind") + pack("one") if codec is ORDER else pack("amount") + pack(1.5)
        found = codec.decode(b"\x82" + first + pack("extra") + inner)
        assert isinstance(found, MalformedBodyError) is refused, found


@pytest.mark.parametrize("codec", [ORDER, LOOSE], ids=["order", "loose"])
@pytest.mark.parametrize(("one", "two", "refused"), [
    (b"\x01", b"\xcc\x01", True), (b"\xff", b"\xd1\xff\xff", True), (b"\x01", b"\xff", False),
    (b"\x01", b"\xa11", False),
])  # fmt: skip
def test_number_is_one_key_however_it_is_written(codec: MsgpackCodec, one: bytes, two: bytes, refused: bool) -> None:
    """In one byte or in more; a text of its digits is another key."""
    first = pack("kind") + pack("one") if codec is ORDER else pack("amount") + pack(1.5)
    inner = pack("a") + b"\x82" + one + b"\x05" + two + b"\x06"
    found = codec.decode(b"\x82" + first + pack("extra") + b"\x81" + inner)
    assert isinstance(found, MalformedBodyError) is refused, found


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("code", [">d", ">f"])
def test_number_that_is_not_finite_is_refused_with_its_path(number: float, code: str) -> None:
    """JSON cannot say it, and a model would."""
    head = b"\xcb" if code == ">d" else b"\xca"
    body = b"\x81" + pack("amount") + head + struct.pack(code, number)
    for whole, where in ((body, "$.amount"), (b"\x92" + pack({"amount": 1.0}) + body, "$[1].amount")):
        refusal = LOOSE.decode(whole)
        assert isinstance(refusal, InvalidRequestError)
        assert refusal.where == where


@pytest.mark.parametrize("depth", [100, 600, 900, 990, 100_000])
def test_number_without_end_is_refused_however_deep(depth: int) -> None:
    """Within a thousand arrays or more; what is told of its place is not as long as the caller likes."""
    key = "a" * 300
    body = b"\x82" + pack("kind") + pack("one") + pack("extra") + b"\x81" + pack(key)
    for within in (b"\x91" * depth, b"\x91" * (depth - 1) + b"\x92" + pack(msgspec.msgpack.Ext(5, b"a"))):
        refusal = ORDER.decode(body + within + b"\xcb" + struct.pack(">d", math.inf))
        assert isinstance(refusal, InvalidRequestError | MalformedBodyError)
        assert len(refusal.where) <= PATH_MAX


def test_bytes_that_look_like_a_number_without_end_are_taken() -> None:
    """They stand in a text."""
    name = "\u00cb\u007f" + "\U000f0000" * 3
    assert MSGPACK.decode(pack({"name": name, "amount": 2.5})).name == name


@pytest.mark.parametrize(
    "body",
    {
        "empty": b"",
        "cut short": pack({"name": "a", "amount": 1.5})[:-3],
        "more behind it": pack({"name": "a", "amount": 1.5}) + b"\xc0",
        "an array of four billion": b"\xdd\xff\xff\xff\xff",
        "a map of four billion": b"\xdf\xff\xff\xff\xff",
        "a text of four billion": b"\x81\xdb\xff\xff\xff\xff",
        "tags of four billion": b"\x81" + pack("tags") + b"\xdd\xff\xff\xff\xff",
        "deep": b"\x91" * 100_000,
        "a byte that says nothing": b"\xc1",
        "no text": b"\x81\xa4name\xa1\xff",
    }.values(),
)
def test_body_that_is_no_msgpack_is_refused(body: bytes) -> None:
    """Nothing is reserved for what a length promises."""
    assert isinstance(MSGPACK.decode(body), MalformedBodyError | InvalidRequestError)


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({"name": "a"}, "$"),
        ({"name": "a", "amount": "1"}, "$.amount"),
        ({"name": "a", "amount": 2000.0}, "$.amount"),
        ({"name": "a", "amount": 1.0, "other": 1}, "$"),
        ([{"name": "a", "amount": 1.0}, {"name": 5, "amount": 1.0}], "$[1].name"),
        ([{"name": "a", "amount": 1.0}] * 21, "$"),
        (5, "$"),
    ],
)
def test_fault_carries_its_path(value: Any, where: str) -> None:
    """The same validation, and the same words, as of JSON."""
    found, expected = MSGPACK.decode(pack(value)), JSON.decode(msgspec.json.encode(value))
    assert isinstance(found, InvalidRequestError)
    assert (found.where, found.what) == (where, expected.what)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=300)
        | st.binary(max_size=300) | st.builds(msgspec.msgpack.Ext, st.integers(0, 100), st.binary(max_size=40)),
        lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(max_size=40), inner, max_size=20),
        max_leaves=60,
    )
)  # fmt: skip
def test_walk_is_at_the_end_where_the_body_is(value: Any) -> None:
    """Of any value, each kind and each width of a length, no key is found twice, and none is passed over."""
    body = pack(value)
    assert find_key_twice(body) is None
    assert keys_of_map(body) == (len(value) if isinstance(value, dict) else -1)
    assert not isinstance(value, dict) or body.startswith(head_of_map(len(value)))
    assert find_key_twice(b"\x83" + pack("x") + body + pack("y") + body + pack("x") + body) == "x"


@pytest.mark.parametrize("keys", [0, 15, 16, 65_535, 65_536])
def test_head_of_a_map_is_what_an_encoder_writes(keys: int) -> None:
    """As short as can be."""
    assert pack({str(number): 0 for number in range(keys)}).startswith(head_of_map(keys))
    assert keys_of_map(head_of_map(keys)) == keys


def test_fixed_type_is_held_to_the_same() -> None:
    """Of a request without defaults: a key twice, with another left out; and a longer way to say how many there are."""

    class Fixed(Request):
        a: float
        b: float

    decode = MsgpackCodec(Fixed, array_max=3).decode
    a, b, one = pack("a"), pack("b"), pack(1.5)
    assert decode(b"\x82" + a + one + b + one).b == 1.5
    assert decode(b"\xde\x00\x02" + a + one + b + one).b == 1.5
    assert isinstance(decode(b"\x83" + a + one + b + one + a + one), MalformedBodyError)
    assert isinstance(decode(b"\x82" + a + one + a + one), InvalidRequestError)
    assert isinstance(decode(b"\x82" + a + one + b + pack(math.inf)), InvalidRequestError)


class Numbers(Request):
    """Flat, and with floats alone: they are summed up where one may be without an end."""

    first: float
    second: float | None = None
    count: int = 0


@pytest.mark.parametrize("field", ["first", "second"])
def test_number_without_end_is_found_among_many_that_look_like_one(field: str) -> None:
    """By its row, also where a sum of numbers that are finite has no end either."""
    like = struct.unpack(">d", b"\x40\x59\xca\x7f\xff\xcb\x7f\xf8")[0]  # both patterns are within it
    _, packed = codecs(Numbers)
    many: list[dict[str, Any]] = [{"first": like, "second": None if row % 2 else like} for row in range(20)]
    assert [each.first for each in packed.decode(pack(many))] == [like] * 20
    large = [{"first": 1.7e308, "second": -math.pi}, {"first": 1.7e308}]
    assert len(packed.decode(pack([*large, *many[:18]]))) == 20
    many[7][field] = math.nan
    refusal = packed.decode(pack(many))
    assert isinstance(refusal, InvalidRequestError)
    assert refusal.where == f"$[7].{field}"
    many[7][field] = -math.inf
    assert packed.decode(pack(many)).where == f"$[7].{field}"
    assert packed.decode(pack(many[7])).where == f"$.{field}"
