"""What tells requests apart: a key is the same only where every value is."""

from __future__ import annotations

import datetime as dt
import sys
from enum import Enum
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tailrace as tr
from tailrace.request.kept_answers import ENTRY_BYTES, KeptAnswers, size_of
from tailrace.request.request_key import RequestKey


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Inner(msgspec.Struct):
    at: dt.datetime
    note: str


class Ask(tr.Request):
    number: int | float | str | bool | None = None
    items: list[int] = msgspec.field(default_factory=list)
    vector: list[float] = msgspec.field(default_factory=list)
    at: dt.datetime | None = None
    day: dt.date | None = None
    colour: Colour = Colour.RED
    kind: Literal["a", "b"] = "a"
    inner: Inner | None = None
    anything: Any = None


NAMES = tuple(field.name for field in msgspec.structs.fields(Ask))
KEY = RequestKey(Ask, NAMES)
UTC, EAST = dt.UTC, dt.timezone(dt.timedelta(hours=1))
NOON = dt.datetime(2026, 1, 2, 12, tzinfo=UTC)


def key(**fields: Any) -> bytes:
    """Return the key of a request."""
    made = KEY.of(b"", Ask(**fields))
    assert made is not None
    return made


DISTINCT: list[dict[str, Any]] = [
    {}, {"number": 0}, {"number": 0.0}, {"number": -0.0}, {"number": False}, {"number": ""}, {"number": "0"},
    {"number": 1}, {"number": 1.0}, {"number": True}, {"number": float("nan")}, {"number": float("inf")},
    {"items": [1, 2]}, {"items": [2, 1]}, {"items": [1, 2, 2]}, {"vector": [1.0, 2.0]}, {"vector": [-0.0]},
    {"vector": [0.0]}, {"at": NOON}, {"at": NOON.astimezone(EAST)}, {"at": NOON.replace(tzinfo=None)},
    {"at": NOON.replace(microsecond=1)}, {"day": dt.date(2026, 1, 2)}, {"colour": Colour.BLUE}, {"kind": "b"},
    {"inner": Inner(NOON, "")}, {"inner": Inner(NOON.astimezone(EAST), "")}, {"inner": Inner(NOON, "x")},
    {"anything": {"a": 1}}, {"anything": {"a": 1.0}}, {"anything": NOON}, {"anything": NOON.astimezone(EAST)},
    {"anything": []}, {"anything": ""}, {"anything": b""},
]  # fmt: skip


def test_values_that_differ_have_other_keys() -> None:
    """Types, signs, zones, places and nothing at all are told apart."""
    assert len({key(**fields) for fields in DISTINCT}) == len(DISTINCT)


@pytest.mark.parametrize("fields", DISTINCT, ids=str)
def test_values_that_are_the_same_have_one_key(fields: dict[str, Any]) -> None:
    """A NaN too; and what was left out is its default."""
    assert key(**fields) == key(**{"number": None, "kind": "a"} | fields)


@given(st.lists(st.tuples(st.binary(max_size=4), st.lists(st.integers(0, 2), max_size=3)), min_size=2, max_size=2))
def test_scopes_and_arrays_are_told_apart(asked: list[tuple[bytes, list[int]]]) -> None:
    """A caller's scope never runs into a request's values, nor a request into an array of one."""
    keys = [KEY.of(scope, [Ask(number=each) for each in numbers]) for scope, numbers in asked]
    assert (keys[0] == keys[1]) == (asked[0] == asked[1])
    assert KEY.of(b"", Ask()) != KEY.of(b"", [Ask()])


VALUES = st.none() | st.booleans() | st.integers(-2, 2) | st.floats(-2, 2) | st.sampled_from(["", "1", "web"])
ZONES = st.sampled_from([None, UTC, EAST])
TIMES = st.builds(lambda hour, zone: dt.datetime(2026, 1, 2, hour, tzinfo=zone), st.integers(11, 13), ZONES)
REQUESTS = st.builds(Ask, number=VALUES, items=st.lists(st.integers(0, 1), max_size=2), at=st.none() | TIMES)


@given(REQUESTS, REQUESTS)
def test_requests_have_one_key_only_where_they_are_written_alike(one: Ask, other: Ask) -> None:
    """What a caller may be sent back, and what a model is given, is the same to the last bit."""
    are_alike = msgspec.json.encode(one) == msgspec.json.encode(other)
    assert (KEY.of(b"", one) == KEY.of(b"", other)) == are_alike


def test_request_without_a_key_has_none() -> None:
    """What cannot be written is compared with nothing."""
    assert KEY.of(b"", Ask(anything=2**70)) is None
    assert KEY.of(b"", Ask(number="\ud800")) is None


def test_fields_that_are_not_compared_do_not_count() -> None:
    """One field alone makes a key."""
    only = RequestKey(Ask, ["kind"])
    assert only.of(b"", Ask(number=1)) == only.of(b"", Ask(number=2)) != only.of(b"", Ask(kind="b"))


def test_kept_answers_take_the_bytes_that_they_say() -> None:
    """The bytes are bounded, what is put in a place again counts once, and one that is too large is not kept."""
    kept = KeptAnswers(ttl_ns=100, answers_max=1_000, bytes_max=20_000)
    for number in range(500):
        kept.keep(b"%d" % (number % 300), [float(number)] * 20, number)
        assert kept.bytes <= 20_000
    assert 0 < len(kept) < 300
    assert kept.bytes > len(kept) * (ENTRY_BYTES + 20 * 24)
    kept.keep(b"large", [0.5] * 10_000, 600)
    assert kept.find(b"large", 601) is None
    kept.forget(10_000)
    assert (len(kept), kept.bytes) == (0, 0)


def test_size_counts_what_is_held() -> None:
    """The parts of a response, a dict and a list are in it."""

    class Told(tr.Response):
        names: list[str]
        scores: dict[str, float]

    text = "x" * 1_000
    assert size_of(Told([text, text], {text: 1.0})) > 3 * 1_000
    for parts in ([1.5] * 9, [1, 2**70, None, True], [text, [text, {text: 2.5}]], []):
        assert size_of(parts) == sys.getsizeof(parts) + sum(map(size_of, parts))
