"""A key twice in one object is refused in bodies of every type, and no right body is, or is searched the slow way."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from enum import Enum, IntEnum
from random import Random
from typing import Any, Literal, NamedTuple

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tailrace.codecs import echo
from tailrace.codecs.decoder import RequestDecoder
from tailrace.errors import ClientError, MalformedBodyError, ServingError
from tailrace.request.schema import Request


class Colour(Enum):
    RED = "red"
    QUOTED = 'a"b'


class Rank(IntEnum):
    FIRST = 1
    SECOND = 2


class Object(NamedTuple):
    """A JSON object to be written, its members in order, a key perhaps twice."""

    members: list[tuple[str, Any]]


class Kind(NamedTuple):
    """A type that a field may have, and values of it: of texts, numbers, lists and `Object`."""

    type: Any
    values: st.SearchStrategy[Any]


TEXTS = st.text('"\\:{}[], ab\n\u00e9\u20ac\U0001f600', max_size=6)
KEYS = st.sampled_from(["a", "b", "", "type", 'a"', "a\\", "\u00e9"])
FIELD_NAMES = ["a", "b", "ab", "a:b", "{a", "\u00e9", "a b", "name"]
NUMBERS = st.integers(-(2**40), 2**40)


@st.composite
def objects(draw: st.DrawFn, members: dict[str, st.SearchStrategy[Any]], optional: set[str]) -> Object:
    """Return an object that has the members, but for some of the optional ones; one in a few has one of them twice."""
    names = [name for name in members if name not in optional or draw(st.booleans())]
    if names and draw(st.integers(0, 7)) == 0:
        names.append(draw(st.sampled_from(names)))
    return Object([(name, draw(members[name])) for name in draw(st.permutations(names))])


def dicts(values: st.SearchStrategy[Any], keys: st.SearchStrategy[str] = KEYS) -> st.SearchStrategy[Object]:
    """Return objects of any keys."""
    return st.lists(st.tuples(keys, values), max_size=3).map(Object)


ANYTHING = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | dicts(inner),
    max_leaves=4,
)
PLAIN_KINDS = [
    Kind(int, NUMBERS),
    Kind(float, st.floats(allow_nan=False, allow_infinity=False)),
    Kind(bool, st.booleans()),
    Kind(str, TEXTS),
    Kind(str | None, st.none() | TEXTS),
    Kind(float | None, st.none() | NUMBERS),
    Kind(int | str, NUMBERS | TEXTS),
    Kind(Decimal, st.sampled_from(["1.5", 2])),
    Kind(dt.date, st.just("2026-01-02")),
    Kind(dt.datetime | None, st.sampled_from(["2026-01-02T03:04:05Z", None])),
    Kind(Literal["x", 'q"\\'], st.sampled_from(["x", 'q"\\'])),
    Kind(Literal["x", None], st.sampled_from(["x", None])),
    Kind(Literal["x", 1], st.sampled_from(["x", 1])),
    Kind(Colour, st.sampled_from(["red", 'a"b'])),
    Kind(Rank | None, st.sampled_from([1, 2, None])),
    Kind(tuple[int, str], st.tuples(NUMBERS, TEXTS).map(list)),
    Kind(set[str], st.lists(TEXTS, max_size=3)),
    Kind(dict[int, int], dicts(NUMBERS, st.sampled_from(["1", "2", "10"]))),
    Kind(Any, ANYTHING),
    Kind(dict[str, Any], dicts(ANYTHING)),
]


def struct_of(inner: list[Kind], random: Random, base: type, **options: Any) -> Kind:
    """Return a struct of these kinds, some of them with a default, in which unknown members may be ignored."""
    names = random.sample(FIELD_NAMES, len(inner))
    loose = random.random() < 0.25
    fields, optional = [], set()
    for index, (name, kind) in enumerate(zip(names, inner, strict=True)):
        default = random.choice([{}, {"default": None}, {"default": "x"}, {"default": 3}, {"default_factory": list}])
        optional |= {name} if default else set()
        fields.append((f"f{index}", kind.type, msgspec.field(name=name, **default)))
    bases = {"bases": (base,)} if base is not msgspec.Struct else {}
    made = msgspec.defstruct("S", fields, kw_only=True, forbid_unknown_fields=not loose, **bases, **options)
    members = {name: kind.values for name, kind in zip(names, inner, strict=True)}
    if tag := options.get("tag"):
        members["type"] = st.just(tag)
    if loose:
        members |= {"unknown": ANYTHING, "": ANYTHING}
    return Kind(made, objects(members, (optional | {"unknown", ""}) - {"type"}))


@st.composite
def kinds(draw: st.DrawFn, depth: int = 2) -> Kind:
    """Return a type of some depth."""
    form = draw(st.sampled_from(["plain", "plain", "list", "dict", "struct", "optional", "union"]))
    if depth == 0 or form == "plain":
        return draw(st.sampled_from(PLAIN_KINDS))
    if form == "list":
        inner = draw(kinds(depth - 1))
        return Kind(list[inner.type], st.lists(inner.values, max_size=3))  # type: ignore[name-defined]
    if form == "dict":
        inner = draw(kinds(depth - 1))
        return Kind(dict[str, inner.type], dicts(inner.values))  # type: ignore[name-defined]
    parts = draw(st.lists(kinds(depth - 1), max_size=3))
    random = draw(st.randoms(use_true_random=False))
    if form == "union":
        one, other = (struct_of(parts, random, msgspec.Struct, tag=tag) for tag in ("one", "two"))
        return Kind(one.type | other.type, one.values | other.values)
    struct = struct_of(parts, random, msgspec.Struct)
    return struct if form == "struct" else Kind(struct.type | None, st.none() | struct.values)


@st.composite
def requests_and_bodies(draw: st.DrawFn) -> tuple[type[Request], bytes]:
    """Return a request type and a body of it, or of an array of it."""
    parts = draw(st.lists(kinds(), max_size=4))
    random = draw(st.randoms(use_true_random=False))
    options = random.choice([{}, {}, {}, {"tag": "one"}, {"omit_defaults": True}])
    kind = struct_of(parts, random, Request, frozen=True, gc=False, **options)
    value = draw(kind.values | st.lists(kind.values, max_size=3))
    spaces = random.choice(["", "", " ", " \n\t"])
    return kind.type, written(value, random, spaces, escaped=random.choice([0, 0, 0.2, 1])).encode()


def written(value: Any, random: Random, spaces: str, escaped: float) -> str:
    """Return the JSON of a value, spaced at random, with a share of its characters escaped that need not be."""

    def space() -> str:
        return random.choice(["", *spaces])

    def text(content: str) -> str:
        return '"' + "".join(map(character, content)) + '"'

    def character(char: str) -> str:
        if random.random() < escaped:
            units = char.encode("utf-16-be").hex()
            return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))
        return json.dumps(char, ensure_ascii=False)[1:-1]

    def write(value: Any) -> str:
        if isinstance(value, Object):
            members = (f"{space()}{text(key)}{space()}:{space()}{write(each)}{space()}" for key, each in value.members)
            return "{" + ",".join(members) + "}"
        if isinstance(value, list):
            return "[" + ",".join(f"{space()}{write(each)}{space()}" for each in value) + "]"
        return text(value) if isinstance(value, str) else json.dumps(value)

    return write(value)


def has_duplicate(body: bytes) -> bool:
    """Tell, by Python's own json, whether an object in the body has a key twice."""
    found = False

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal found
        found |= len(dict(pairs)) < len(pairs)
        return dict(pairs)

    json.loads(body, object_pairs_hook=members)
    return found


@pytest.fixture(scope="module")
def searched() -> Iterator[list[bytes]]:
    """Return the bodies that were searched the slow way."""
    bodies: list[bytes] = []
    search = echo.duplicate_key

    def recorded(body: bytes) -> MalformedBodyError | None:
        bodies.append(body)
        return search(body)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(echo, "duplicate_key", recorded)
        yield bodies


def decode_of(request_type: type[Request]) -> Callable[[bytes], Any]:
    """Return what decodes a body, and raises what it is refused with."""
    decode = RequestDecoder(request_type, array_max=3).decode

    def decode_or_raise(body: bytes) -> Any:
        found = decode(body)
        if isinstance(found, ServingError):
            raise found
        return found

    return decode_or_raise


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(case=requests_and_bodies())
def test_key_that_stands_twice_is_refused_in_every_type(
    searched: list[bytes], case: tuple[type[Request], bytes]
) -> None:
    """A body is refused if json finds a key twice in it; else it has msgspec's value and was not searched for long."""
    request_type, body = case
    searched.clear()
    decode = decode_of(request_type)
    if has_duplicate(body):
        with pytest.raises(MalformedBodyError, match="twice"):
            decode(body)
        return
    got = decode(body)
    wanted = msgspec.json.decode(body, type=request_type | list[request_type])  # type: ignore[valid-type]
    if isinstance(wanted, list):
        assert list(map(msgspec.structs.asdict, got)) == list(map(msgspec.structs.asdict, wanted))
    else:
        assert msgspec.structs.asdict(got) == msgspec.structs.asdict(wanted)
    assert not searched


class Item(msgspec.Struct, forbid_unknown_fields=True):
    sku: str
    price: float
    discount: float | None = None


class Card(msgspec.Struct, tag="card"):
    number: str


class Cash(msgspec.Struct, tag="cash"):
    till: int


class Optionals(Request):
    key: str
    amount: float
    note: str | None = None
    weight: float | None = None
    currency: Literal["EUR", "USD"] = "EUR"
    unit: str | None = "kg"
    vip: bool = False


class Ranking(Request):
    user: int
    ids: list[int]
    names: list[str] = msgspec.field(default_factory=list)
    scores: dict[str, float] = msgspec.field(default_factory=dict)


class Nested(Request):
    items: list[Item]
    pay: Card | Cash | None = None
    more: dict[str, Any] = msgspec.field(default_factory=dict)


class Loose(Request, forbid_unknown_fields=False):
    amount: float
    note: str | None = None


@pytest.mark.parametrize(
    ("request_type", "body", "echoes"),
    [
        (Optionals, '{"key": "a", "amount": 1}', 0),
        (Optionals, '{"key":"a","amount":1,"note":null,"weight":null,"currency":"EUR","vip":false}', 0),
        (Optionals, '{"key": "a\\"b:{\\\\", "amount": 1, "note": "\\"", "currency": "USD"}', 0),
        (Optionals, '[{"key":"a","amount":1},{"key":"a","amount":1,"note":"b","vip":true}]', 0),
        (Ranking, json.dumps({"user": 1, "ids": list(range(200))}), 0),
        (Ranking, json.dumps({"user": 1, "ids": [], "names": ["a"] * 200, "scores": {"a": 1, "b": 2}}), 0),
        (Nested, '{"items": [{"sku": "a", "price": 1}, {"sku": "b", "price": 2, "discount": 0.5}]}', 1),
        (Nested, '{"items":[],"pay":{"type":"card","number":"1"},"more":{"a":[{"b":1},{"b":"\\""}]}}', 1),
        (Loose, '{"amount": 1}', 0),
        (Loose, '{"amount": 1, "note": "a", "more": {"a": [1, {"a": "\\"amount\\":"}]}, "other": 1e5}', 1),
    ],
)
def test_right_body_is_not_searched(
    searched: list[bytes],
    monkeypatch: pytest.MonkeyPatch,
    request_type: type[Request],
    body: str,
    echoes: int,
) -> None:
    """A usual body is cleared by its count, or by one echo where its parts may hold any number of keys."""
    asked: list[bytes] = []
    ask = echo.Echo.duplicate_key
    monkeypatch.setattr(echo.Echo, "duplicate_key", lambda self, body: (asked.append(body), ask(self, body))[1])
    searched.clear()
    decode_of(request_type)(body.encode())
    assert (len(asked), len(searched)) == (echoes, 0)


@pytest.mark.parametrize(
    ("request_type", "body", "where"),
    [
        (Optionals, '{"key":"a","amount":1,"amount":2}', "$.amount"),
        (Optionals, '{"key":"a","amount":1,"weight":1,"weight":1}', "$.weight"),
        (Optionals, '{"key":"a","amount":1,"vip":true,"v\\u0069p":true}', "$.vip"),
        (Optionals, '{"key":"a","amount":1,"note":null,"note":null}', "$.note"),
        (Optionals, '[{"key":"a","amount":1,"vip":true},{"key":"a","amount":1,"amount":1}]', "$[1].amount"),
        (Ranking, '{"user":1,"ids":[],"names":["a","b"],"names":[]}', "$.names"),
        (Ranking, '{"user":1,"ids":[],"scores":{"a":1,"\\u0061":1}}', "$.scores.a"),
        (Nested, '{"items":[{"sku":"a","price":1,"price":1}]}', "$.items[0].price"),
        (Nested, '{"items":[{"sku":"a","price":1}],"items":[{"sku":"a","price":1}]}', "$.items"),
        (Nested, '{"items":[],"pay":{"type":"card","number":"1","number":"2"}}', "$.pay.number"),
        (Nested, '{"items":[],"pay":{"type":"card","number":"1","type":"card"}}', "$.pay.type"),
        (Nested, '{"items":[],"more":{"\\u0022":1,"\\u0022\\"":1,"a":1,"a":1}}', "$.more.a"),
        (Nested, '{"items":[],"more":{"a":1e5,"b":1,"b":1}}', "$.more.b"),
        (Loose, '{"amount":1,"more":{"a":[{"b":1,"b":2}]}}', "$.more.a[0].b"),
    ],
)
def test_duplicate_key_that_others_make_up_for_is_refused(request_type: type[Request], body: str, where: str) -> None:
    """Fields left out, nulls, empty lists, escapes and numbers grown longer never balance a key that stands twice."""
    with pytest.raises(MalformedBodyError, match="twice") as caught:
        decode_of(request_type)(body.encode())
    assert caught.value.where == where


class Padded(Request):
    """A request whose own code adds to what was sent."""

    amount: float
    note: str | None = None
    names: list[str] = msgspec.field(default_factory=list)

    def __post_init__(self) -> None:
        """Add one text, which has as many quotes as a key."""
        if self.amount > 1:
            self.names.append("more")
        else:
            msgspec.structs.force_setattr(self, "note", "none")


def test_user_code_that_changes_a_request_hides_no_duplicate() -> None:
    """What __post_init__ adds is served, and is not counted as if it had been sent."""
    decode = decode_of(Padded)
    assert decode(b'{"amount":2,"names":["a"]}').names == ["a", "more"]
    assert decode(b'{"amount":1,"note":null}').note == "none"
    for amount in (b"1", b"2"):
        for rest in (b"", b',"note":null', b',"names":[]', b',"names":["a"],"note":"b"'):
            with pytest.raises(MalformedBodyError, match="twice"):
                decode(b'{"amount":%b,"amount":%b%b}' % (amount, amount, rest))


class Brief(Request, omit_defaults=True):
    amount: float
    vip: bool = False


def test_request_encodes_without_its_defaults_where_declared_so() -> None:
    """omit_defaults holds for the requests that user code sees."""
    assert msgspec.json.encode(decode_of(Brief)(b'{"amount":1,"vip":false}')) == b'{"amount":1.0}'


def test_body_that_is_refused_leaves_the_count_of_the_next_alone(searched: list[bytes]) -> None:
    """Defaults that a refused body took do not count for the one after it, nor hide anything in it."""
    decode = decode_of(Optionals)
    for body in (b'[{"key":"a","amount":1},{"key":"a"}]', b'[{"key":"a","amount":1},{"key":'):
        with pytest.raises(ClientError):
            decode(body)
        searched.clear()
        assert decode(b'{"key":"a","amount":1}').vip is False
        assert not searched
        with pytest.raises(MalformedBodyError, match="twice"):
            decode(b'{"key":"a","amount":1,"vip":true,"vip":true}')


class Renamed(Request, rename="camel"):
    customer_id: int
    amount: float = msgspec.field(default=1.0, name="value")


def test_field_of_another_name_in_json_is_read_by_it() -> None:
    """A field's declared JSON name is the one that bodies have."""
    request = decode_of(Renamed)(b'{"customerId":5,"value":2}')
    assert (request.customer_id, request.amount) == (5, 2.0)
