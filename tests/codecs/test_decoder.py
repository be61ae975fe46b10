from __future__ import annotations

import datetime as dt
import json
from enum import Enum
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.codecs.decoder import RequestDecoder
from tailrace.codecs.duplicates import PATH_MAX
from tailrace.errors import (
    ClientError,
    InvalidRequestError,
    MalformedBodyError,
    NotFoundError,
    ServerError,
    ServingError,
)
from tailrace.request.schema import Field, Request
from tailrace.response.problem import problem_body


class Payment(Request):
    name: str
    customer_id: int
    amount: Annotated[float, Field(gt=0, le=1000)]
    time: dt.datetime
    kind: Literal["card", "cash"]
    vip: bool


class Kind(Enum):
    ONE = "one"
    TWO = "two"


class Order(Request):
    """Everything that is optional, listed or nested."""

    items: Annotated[list[int], Field(max_length=5)]
    kind: Kind
    day: dt.date
    note: str | None = None
    weight: float | None = None
    count: Annotated[int, Field(ge=0)] = 3
    tags: list[str] = msgspec.field(default_factory=list)
    extra: dict[str, Any] = msgspec.field(default_factory=dict)


class Loose(Request, forbid_unknown_fields=False):
    amount: float


VALID: dict[str, Any] = {
    "name": "a",
    "customer_id": 1,
    "amount": 5.5,
    "time": "2026-01-02T03:04:05Z",
    "kind": "card",
    "vip": True,
}
decode = RequestDecoder(Payment, array_max=1_000).decode
decode_order = RequestDecoder(Order, array_max=10).decode
decode_loose = RequestDecoder(Loose, array_max=10).decode


def body_with(**changes: Any) -> bytes:
    """Return the valid body with other values; ... takes a field out."""
    fields = {name: value for name, value in (VALID | changes).items() if value is not ...}
    return json.dumps(fields).encode()


def refused(kind: type[ServingError], found: Any) -> ServingError:
    """Return what came of a body, which is a refusal of this kind: it is returned, not raised."""
    assert isinstance(found, kind)
    return found


def test_valid_body_is_decoded() -> None:
    """Every field has its value."""
    request = decode(body_with())
    assert isinstance(request, Payment)
    assert (request.name, request.customer_id, request.amount, request.kind, request.vip) == ("a", 1, 5.5, "card", True)
    assert request.time == dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("changes", "where", "what"),
    [
        ({"name": ...}, "$", "missing required field `name`"),
        ({"customer_id": "7"}, "$.customer_id", "Expected `int`, got `str`"),
        ({"customer_id": 1.5}, "$.customer_id", "Expected `int`, got `float`"),
        ({"customer_id": None}, "$.customer_id", "Expected `int`, got `null`"),
        ({"customer_id": True}, "$.customer_id", "Expected `int`, got `bool`"),
        ({"customer_id": 2**63}, "$.customer_id", "<= 9223372036854775807"),
        ({"customer_id": -(2**63) - 1}, "$.customer_id", ""),
        ({"customer_id": 10**400}, "$.customer_id", ""),
        ({"amount": 0}, "$.amount", "Expected `float` > 0"),
        ({"amount": 1000.5}, "$.amount", "Expected `float` <= 1000"),
        ({"amount": 10**400}, "$.amount", ""),
        ({"time": "yesterday"}, "$.time", "Invalid RFC3339 encoded datetime"),
        ({"time": 12}, "$.time", "Expected `datetime`, got `int`"),
        ({"kind": "gold"}, "$.kind", "Invalid enum value 'gold'"),
        ({"vip": 1}, "$.vip", "Expected `bool`, got `int`"),
        ({"nam": "b"}, "$", "unknown field `nam`"),
    ],
)
def test_invalid_field_is_told_with_its_path(changes: dict[str, Any], where: str, what: str) -> None:
    """A field that is missing, of the wrong type, out of range or unknown is a 422 that says which."""
    refusal = refused(InvalidRequestError, decode(body_with(**changes)))
    assert refusal.where == where
    assert what in refusal.what
    assert refusal.status == 422


def test_invalid_field_of_an_array_is_told_with_its_place() -> None:
    """The path names the element."""
    refusal = refused(InvalidRequestError, decode(b"[" + body_with() + b"," + body_with(amount=-1) + b"]"))
    assert refusal.where == "$[1].amount"


@pytest.mark.parametrize(
    "number", ["NaN", "Infinity", "-Infinity", "1e400", "-1e400", "nan", "01", "1.", ".5", "+1", "0x1"]
)
def test_number_that_json_has_not_is_refused(number: str) -> None:
    """NaN, infinities and what overflows never become a value."""
    body = json.dumps(VALID | {"amount": "?"}).replace('"?"', number).encode()
    refused(ClientError, decode(body))


@pytest.mark.parametrize("value", [2**63 - 1, -(2**63)])
def test_int_of_64_bits_is_taken(value: int) -> None:
    """The whole range of an int64 is valid."""
    assert decode(body_with(customer_id=value)).customer_id == value


@pytest.mark.parametrize(
    "body",
    [
        b"", b" ", b"null", b"5", b'"a"', b"true", b"{", b"[", b"]", b"{}", b"[[]]", b"[{}]", b"\x00", b"\xff\xfe",
        b'{"name": "\xff"}', b"\xef\xbb\xbf{}", b"{'name': 1}", b'{"name": "a",}', b"//", b'{"name": "\\ud800"}',
    ],
)  # fmt: skip
def test_body_that_is_no_request_is_a_client_error(body: bytes) -> None:
    """Nothing that is sent instead of a request is our fault, or taken."""
    refused(ClientError, decode(body))


@pytest.mark.parametrize("decoder", [decode, decode_order, decode_loose])
@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'{"amount":1,"extra":{"a":', b'{"amount":1,"other":[['])
def test_deep_nesting_is_refused(decoder: Any, opening: bytes) -> None:
    """Ten thousand levels end in an error, not in the stack."""
    refused(ClientError, decoder(opening * 10_000))
    closing = b"]" if opening.endswith(b"[") else b"}"
    body = (
        b'{"amount":1,"items":[],"kind":"one","day":"2026-01-01","extra":'
        + opening * 10_000
        + b"1"
        + closing * 10_000
        + b"}"
    )
    refused(ClientError, decoder(body))


@given(st.data())
def test_truncated_body_is_a_client_error(data: st.DataObject) -> None:
    """A valid body cut anywhere is refused."""
    body = data.draw(st.sampled_from([body_with(), b"[" + body_with() + b"," + body_with(name='q"') + b"]"]))
    refused(ClientError, decode(body[: data.draw(st.integers(0, len(body) - 1))]))


@given(st.data())
def test_spoiled_body_never_raises_anything_else(data: st.DataObject) -> None:
    """A valid body with bytes replaced is decoded or a client error, never another exception."""
    body = bytearray(body_with())
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    assert isinstance(decode(bytes(body)), Payment | ClientError)


@pytest.mark.parametrize("count", [0, 1, 1_000])
def test_array_is_decoded_up_to_its_limit(count: int) -> None:
    """An array of none to a thousand requests gives as many."""
    assert len(decode(b"[" + b",".join([body_with()] * count) + b"]")) == count


def test_array_over_its_limit_is_refused() -> None:
    """One more is told with the limit."""
    assert "<= 1000" in refused(InvalidRequestError, decode(b"[" + b",".join([body_with()] * 1_001) + b"]")).what


REST = '"customer_id":1,"amount":5,"time":"2026-01-02T03:04:05Z","kind":"card","vip":true}'


@pytest.mark.parametrize(
    "body",
    [
        '{"name":"a","name":"b",' + REST,
        '{"name":"a", \n\t"name" : "a",' + REST,
        '{"name":"a","amount":7,' + REST,
        '{"name":"a\\"b","amount":7,' + REST,
        '{"\\u006eame":"a","name":"b",' + REST,
        '{"name":"a","vip":false,' + REST,
        '[{"name":"a",' + REST + ',{"name":"a","kind":"cash",' + REST + "]",
    ],
)
def test_duplicate_key_is_refused(body: str) -> None:
    """A key twice in one object has two readings; neither is taken."""
    assert "twice" in refused(MalformedBodyError, decode(body.encode())).what


@pytest.mark.parametrize(
    "body",
    [
        '{"name":"a \\"name\\":",' + REST,
        '{"name":"\\"",' + REST,
        '{ "name" : "a" , ' + REST,
        '{"\\u006eame":"a",' + REST,
        '[{"name":"a",' + REST + ',{"name":"a",' + REST + "]",
    ],
)
def test_odd_body_without_duplicate_key_is_taken(body: str) -> None:
    """Escaped quotes, escapes in keys and whitespace are no duplicate."""
    decode(body.encode())


ORDER = '"items":[1],"kind":"one","day":"2026-01-01"'


@pytest.mark.parametrize(
    "body",
    [
        "{" + ORDER + ',"items":[2]}',
        "{" + ORDER + ',"note":null,"note":null}',
        "{" + ORDER + ',"weight":1,"weight":1}',
        "{" + ORDER + ',"extra":{"a":{"b":1,"b":2}}}',
        "{" + ORDER + ',"extra":{"a":[{"b":1},{"b":1,"b":1}]}}',
    ],
)
def test_duplicate_key_is_refused_in_a_type_of_optional_parts(body: str) -> None:
    """Nested, in arrays, and of fields that may be absent."""
    assert "twice" in refused(MalformedBodyError, decode_order(body.encode())).what


@pytest.mark.parametrize(
    ("extra", "where"),
    [
        ('{"a":1,"a":2}', "$.extra.a"),
        ('{"a":{"c":1,"b":1,"b":2}}', "$.extra.a.b"),
        ('{"a":[{"b":1},[{"b":1,"b":1}]]}', "$.extra.a[1][0].b"),
        ('{"a":{"b":1},"c":{"b":1},"a":{"b":1}}', "$.extra.a"),
        ('{"a":[{"b":1,"b":1}],"a":1}', "$.extra.a[0].b"),
        ('{"K":1,"K":2}'.replace("K", "k" * 5_000), ("$.extra." + "k" * 5_000)[:PATH_MAX]),
    ],
)
def test_duplicate_key_is_told_with_its_path(extra: str, where: str) -> None:
    """The path of the first one, as that of any other fault, and no longer than can be told."""
    order = "{" + ORDER + ',"extra":' + extra + "}"
    for body, path in ((order, where), (f"[{{{ORDER}}},{order}]", f"$[1]{where[1:]}"[:PATH_MAX])):
        refusal = refused(MalformedBodyError, decode_order(body.encode()))
        assert "twice" in refusal.what
        assert refusal.where == path


@pytest.mark.parametrize("depth", range(900, 1_000, 9))
def test_duplicate_key_in_the_depth_is_refused(depth: int) -> None:
    """Wherever the stack ends, in reading or in looking for the path, it is a client's error."""
    for opening, closing in (("[", "]"), ('{"a":', "}")):
        body = f'{{"amount":1,"more":{opening * depth}{{"b":1,"b":2}}{closing * depth}}}'
        refused(MalformedBodyError, decode_loose(body.encode()))


@pytest.mark.parametrize("key", [b"\xed\xa0\x80", b"\xff"])
def test_duplicate_key_that_is_no_text_can_be_told(key: bytes) -> None:
    """A key that is passed over need not be UTF-8; the answer that tells of it must be."""
    assert problem_body(refused(MalformedBodyError, decode_loose(b'{"amount":1,"%b":1,"%b":2}' % (key, key))))


def test_duplicate_key_of_a_literal_of_two_types_is_refused() -> None:
    """A field whose values are of different types has no fixed number of quotes."""

    class Mixed(Request):
        level: Literal["low", 1]
        none: Literal["none", None]

    decode_mixed = RequestDecoder(Mixed, array_max=1).decode
    assert decode_mixed(b'{"level":1,"none":null}').level == 1
    for body in (b'{"level":1,"level":1,"none":"none"}', b'{"level":"low","none":null,"none":null}'):
        assert "twice" in refused(MalformedBodyError, decode_mixed(body)).what


def test_duplicate_unknown_key_is_refused_where_unknown_fields_are_ignored() -> None:
    """A field that is ignored is still part of a body of two readings."""
    assert "twice" in refused(MalformedBodyError, decode_loose(b'{"amount":1,"a":1,"a":2}')).what


def test_unknown_field_is_ignored_where_declared_so() -> None:
    """forbid_unknown_fields=False takes the rest of the body."""
    assert decode_loose(b'{"amount":1,"more":{"a":[1,2]},"text":"\\"amount\\""}').amount == 1


def test_optional_fields_take_their_defaults() -> None:
    """What is absent has the declared default; a list of it is one of its own."""
    one, other = decode_order(f"[{{{ORDER}}},{{{ORDER}}}]".encode())
    assert (one.note, one.weight, one.count, one.tags, one.extra) == (None, None, 3, [], {})
    assert one.tags is not other.tags
    assert one.kind is Kind.ONE
    assert one.day == dt.date(2026, 1, 1)


@pytest.mark.parametrize(
    "part",
    [
        '"items":[1,2,3,4,5,6]',
        '"items":[9223372036854775808]',
        '"count":-1',
        '"count":1e30',
        '"kind":"x"',
        '"day":"2026-02-30"',
        '"weight":"1"',
    ],
)
def test_order_out_of_bounds_is_refused(part: str) -> None:
    """Bounds hold inside lists and in optional fields."""
    name = part.split(":", maxsplit=1)[0]
    rest = ",".join(item for item in ('"items":[1]', '"kind":"one"', '"day":"2026-01-01"') if not item.startswith(name))
    refused(InvalidRequestError, decode_order(("{" + rest + "," + part + "}").encode()))


class Brittle(Request):
    """A request whose own code raises, as its field says."""

    code: str

    def __post_init__(self) -> None:
        """Raise."""
        if self.code:
            raise {
                "zero": ZeroDivisionError("by zero"),
                "value": ValueError("no such code"),
                "own": NotFoundError("no such shop"),
            }[self.code]


decode_brittle = RequestDecoder(Brittle, array_max=10).decode


@pytest.mark.parametrize(
    ("code", "kind", "what"),
    [
        ("value", InvalidRequestError, "no such code"),
        ("own", NotFoundError, "no such shop"),
        ("zero", ServerError, "ZeroDivisionError in reading this request"),
        ("other", ServerError, "KeyError in reading this request"),
    ],
)
def test_request_whose_own_code_raises_is_a_serving_error(code: str, kind: type[ServingError], what: str) -> None:
    """A ValueError says that the request is invalid, a serving error what it says; anything else is our fault."""
    for body in (f'{{"code":"{code}"}}', f'[{{"code":""}},{{"code":"{code}"}}]'):
        refusal = refused(kind, decode_brittle(body.encode()))
        assert type(refusal) is kind
        assert refusal.what == what
    assert decode_brittle(b'{"code":""}').code == ""


TEXTS = st.text(st.characters(codec="utf-8"))
PAYMENTS = st.builds(
    Payment,
    name=TEXTS,
    customer_id=st.integers(-(2**63), 2**63 - 1),
    amount=st.floats(0, 1000, exclude_min=True),
    time=st.datetimes(timezones=st.sampled_from([None, dt.UTC, dt.timezone(dt.timedelta(hours=5, minutes=30))])),
    kind=st.sampled_from(["card", "cash"]),
    vip=st.booleans(),
)
ORDERS = st.builds(
    Order,
    items=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5),
    kind=st.sampled_from(Kind),
    day=st.dates(),
    note=st.none() | TEXTS,
    weight=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    count=st.integers(0, 2**63 - 1),
    tags=st.lists(TEXTS, max_size=3),
    extra=st.dictionaries(TEXTS, st.integers(0, 9) | TEXTS | st.lists(TEXTS, max_size=2), max_size=3),
)


@given(st.one_of(st.tuples(st.just(decode), PAYMENTS), st.tuples(st.just(decode_order), ORDERS)))
def test_encoded_request_decodes_equal(case: tuple[Any, Request]) -> None:
    """What a client encodes is what the pipeline sees, alone and in an array."""
    decoder, request = case
    body = msgspec.json.encode(request)
    wanted = msgspec.structs.asdict(request)
    assert msgspec.structs.asdict(decoder(body)) == wanted
    assert [msgspec.structs.asdict(each) for each in decoder(b"[" + body + b" ,\n" + body + b"]")] == [wanted] * 2
