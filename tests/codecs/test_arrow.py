"""Arrow says no more than JSON: rows of columns are the same requests, and what JSON cannot say is refused."""

from __future__ import annotations

import datetime as dt
import math
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from enum import Enum
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.codecs.arrow import ArrowCodec
from tailrace.codecs.arrow_messages import MESSAGES_MAX
from tailrace.codecs.arrow_values import ELEMENTS_MAX
from tailrace.codecs.json import JsonCodec
from tailrace.errors import BodyTooLargeError, InvalidRequestError, MalformedBodyError, ServingError
from tailrace.request.schema import Field, Request
from tailrace.response.schema import Response

pa = pytest.importorskip("pyarrow")
LIMIT = 1 << 20


FIRST = """
import sys
from tailrace.codecs.arrow import ArrowCodec
from tailrace.request.schema import Request
from tailrace.response.schema import Response

class Asked(Request):
    amount: float
    name: str

class Answer(Response):
    amount: float
    name: str

codec = ArrowCodec(Asked, Answer, array_max=9, body_bytes_max=9_999)
before = set(sys.modules)
(asked,) = codec.decode(codec.encode([Answer(amount=1.5, name="a")]))
assert asked.amount == 1.5
print(sorted(set(sys.modules) - before))
"""


def test_first_call_loads_nothing() -> None:
    """What pyarrow loads when it is first used is loaded when the codec is made, before the server is ready."""
    run = subprocess.run([sys.executable, "-c", FIRST], capture_output=True, text=True, check=False, timeout=60)
    assert (run.stdout, run.stderr) == ("[]\n", "")


class Kind(Enum):
    ONE = "one"
    TWO = "two"


class Place(msgspec.Struct):
    city: str
    zip: str | None = None


class Payment(Request):
    name: str
    amount: Annotated[float, Field(gt=0, le=1000)]
    time: dt.datetime | None = None
    kind: Literal["card", "cash"] = "card"
    vip: bool = False
    count: int = msgspec.field(default=0, name="n")
    tags: list[str] = msgspec.field(default_factory=list)
    shares: dict[str, float] = msgspec.field(default_factory=dict)
    place: Place | None = None
    other: Kind = Kind.ONE


class Loose(Request, forbid_unknown_fields=False):
    amount: float


class Answer(Response):
    score: float
    label: str | None = None
    reasons: tuple[str, ...] = ()
    parts: dict[str, float] | None = None


def codec(request_type: type[Request], array_max: int = 20) -> ArrowCodec:
    """Return the codec of a request type."""
    return ArrowCodec(request_type, Answer, array_max=array_max, body_bytes_max=LIMIT)


ARROW, LOOSE, JSON = codec(Payment), codec(Loose), JsonCodec(Payment, array_max=20)


def stream(*batches: Any, compression: str | None = None) -> bytes:
    """Return the bytes of a stream of record batches of one schema."""
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_stream(sink, batches[0].schema, options=options) as writer:
        for batch in batches:
            writer.write_batch(batch)
    found: bytes = sink.getvalue().to_pybytes()
    return found


def columns(compression: str | None = None, **values: Any) -> bytes:
    """Return the bytes of a stream of one batch."""
    return stream(pa.record_batch(values), compression=compression)


payments = st.fixed_dictionaries(
    {
        "name": st.text(max_size=10),
        "amount": st.floats(0.01, 1000),
        "time": st.none() | st.just("2026-01-02T03:04:05Z"),
        "kind": st.sampled_from(["card", "cash"]),
        "vip": st.booleans(),
        "n": st.integers(-(2**63), 2**63 - 1),
        "tags": st.lists(st.text(max_size=3), max_size=4),
        "place": st.none() | st.fixed_dictionaries({"city": st.text(max_size=3), "zip": st.none() | st.text()}),
        "other": st.sampled_from(["one", "two"]),
    },
)
SHARES = pa.map_(pa.string(), pa.float64())
NONE = pa.array([0], pa.int8())
TYPES = {"time": pa.timestamp("us", "UTC"), "tags": pa.list_(pa.string()), "n": pa.int64(),
         "place": pa.struct([("city", pa.string()), ("zip", pa.string())])}  # fmt: skip


def table(rows: list[dict[str, Any]]) -> Any:
    """Return rows as a record batch."""
    arrays = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        if name == "time":
            values = [None if value is None else dt.datetime.fromisoformat(value) for value in values]
        arrays[name] = pa.array(values, TYPES.get(name))
    return pa.record_batch(arrays)


@given(st.lists(payments, min_size=1, max_size=6), st.sampled_from([None, "zstd", "lz4"]))
def test_rows_are_the_requests_of_json(rows: list[dict[str, Any]], compression: str | None) -> None:
    """In one batch or in two, compressed or not."""
    whole = table(rows)
    expected = msgspec.to_builtins(JSON.decode(msgspec.json.encode(rows)))
    for body in (stream(whole, compression=compression), stream(whole.slice(0, 1), whole.slice(1))):
        found = ARROW.decode(body)
        assert not isinstance(found, ServingError), found
        assert {type(each) for each in found} == {ARROW.request_type}
        assert msgspec.to_builtins(found) == expected


def test_columns_may_say_the_same_in_other_types() -> None:
    """Texts and times of other widths, dictionaries, maps and vectors."""
    noon = dt.datetime(2026, 1, 2, 12, tzinfo=dt.UTC)
    body = columns(
        name=pa.array(["a", "b", "a"]).dictionary_encode(),
        amount=pa.array([1, 2, 3], pa.float32()),
        time=pa.array([noon, None, noon], pa.timestamp("ns", "Europe/Berlin")),
        kind=pa.array(["card", "cash", "card"], pa.large_string()),
        n=pa.array([1, 2, 3], pa.uint8()),
        tags=pa.array([["x", "y"], [], ["z", "w"]], pa.large_list(pa.string_view())),
        shares=pa.array([[("a", 0.5)], [], [("b", 1.0), ("c", 2.0)]], pa.map_(pa.string(), pa.float64())),
    )
    first, second, third = ARROW.decode(body)
    assert (first.name, first.amount, first.time, first.count) == ("a", 1.0, noon, 1)
    assert (second.kind, second.time, second.tags, second.shares) == ("cash", None, [], {})
    assert (third.name, third.tags, third.shares) == ("a", ["z", "w"], {"b": 1.0, "c": 2.0})


class Times(Request):
    at: dt.datetime | None = None
    naive: dt.datetime | None = None
    day: dt.date | None = None
    clock: dt.time | None = None
    lasts: dt.timedelta | None = None
    many: list[dt.datetime | None] = msgspec.field(default_factory=list)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *[("at", pa.timestamp(unit, "UTC")) for unit in ("s", "ms", "us", "ns")],
        *[("naive", pa.timestamp(unit)) for unit in ("s", "us", "ns")],
        *[("day", kind) for kind in (pa.date32(), pa.date64())],
        *[("clock", kind) for kind in (pa.time32("s"), pa.time64("us"))],
        *[("lasts", pa.duration(unit)) for unit in ("s", "us", "ns")],
    ],
)
def test_time_of_every_unit_is_one_of_python(name: str, kind: Any) -> None:
    """To the microsecond, null where there is none, with a zone or without."""
    values = {
        "at": dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC), "naive": dt.datetime(1969, 12, 31, 23, 59, 59),
        "day": dt.date(1, 1, 1), "clock": dt.time(23, 59, 59), "lasts": dt.timedelta(days=-1, seconds=3),
    }  # fmt: skip
    found = codec(Times).decode(columns(**{name: pa.array([values[name], None], kind)}))
    assert [getattr(each, name) for each in found] == [values[name], None]
    if name == "at":
        (found,) = codec(Times).decode(columns(many=pa.array([[values[name], None]], pa.list_(kind))))
        assert found.many == [values[name], None]


@pytest.mark.parametrize("value", [2**40, -(2**40)])
def test_time_that_no_calendar_has_is_refused(value: int) -> None:
    """Beyond the years 1 to 9999, at its row."""
    for name, kind in (("at", pa.timestamp("s", "UTC")), ("naive", pa.timestamp("s"))):
        found = codec(Times).decode(columns(**{name: pa.array([0, value]).cast(pa.int64()).view(kind)}))
        assert isinstance(found, InvalidRequestError)
        assert found.where == f"$[1].{name}"


def test_vectors_come_as_lists_of_one_length() -> None:
    """Fixed-size lists, also of a batch that was cut out of another."""

    class Vector(Request):
        values: Annotated[list[float], Field(min_length=2, max_length=2)]

    array = pa.array([[1, 2], [3, 4], [5, 6]], pa.list_(pa.float32(), 2))
    found = codec(Vector).decode(stream(pa.record_batch({"values": array}).slice(1)))
    assert [each.values for each in found] == [[3, 4], [5, 6]]


@pytest.mark.parametrize(
    ("values", "where"),
    [
        ({"name": ["a", "b"], "amount": [1.0, None]}, "$[1].amount"),
        ({"name": ["a", "b"], "amount": [1.0, 1001.0]}, "$[1].amount"),
        ({"name": ["a", "b"], "amount": [1.0, math.nan]}, "$[1].amount"),
        ({"name": ["a", "b"], "amount": pa.array([None, math.inf])}, "$[1].amount"),
        ({"name": ["a"], "amount": ["1.0"]}, "$[0].amount"),
        ({"name": ["a"]}, "$[0]"),
        ({"name": ["a"], "amount": [1.0], "extra": [1]}, "$[0]"),
        ({"name": ["a"], "amount": [1.0], "n": pa.array([2**64 - 1], pa.uint64())}, "$[0].n"),
        ({"name": ["a"], "amount": [1.0], "kind": ["gold"]}, "$[0].kind"),
        ({"name": ["a"], "amount": [1.0], "shares": pa.array([[("a", math.nan)]], SHARES)}, "$[0].shares.a"),
        ({"name": ["a"], "amount": [1.0], "shares": pa.array([[("a", 1), ("a", 2)]], SHARES)}, "$[0].shares"),
        ({"name": ["a"] * 21, "amount": [1.0] * 21}, "$"),
        ({"name": pa.array([["a"]]), "amount": [1.0]}, "$[0].name"),
        ({"name": ["a"], "amount": pa.UnionArray.from_sparse(NONE, [pa.array([1.0])])}, "$[0].amount"),
        ({"name": ["a"], "amount": [1.0], "tags": pa.array([["a", None]])}, "$[0].tags[1]"),
    ],
)  # fmt: skip
def test_fault_is_told_by_its_row_and_column(values: dict[str, Any], where: str) -> None:
    """A null where none may be, a number out of range or not finite, another type, a column too few or too many."""
    found = ARROW.decode(columns(**values))
    assert isinstance(found, InvalidRequestError)
    assert found.where == where


def test_stream_without_rows_is_an_array_without_requests() -> None:
    """As `[]` is; columns that an open type does not name are passed over unread."""
    assert ARROW.decode(columns(name=pa.array([], pa.string()))) == []
    (found,) = LOOSE.decode(columns(amount=[1.0], more=pa.array([[[1]]])))
    assert found.amount == 1.0
    assert isinstance(LOOSE.decode(columns(more=[1])), InvalidRequestError)


WHOLE = columns(name=["a", "b"], amount=[1.0, 2.0])


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b"\0" * 8, b"\xff" * 8, WHOLE[:40], WHOLE[:-30], WHOLE + b"x", WHOLE * 2,
     struct.pack("<iI", -1, 2**31 - 1), struct.pack("<iI", -1, 8) + b"\xff" * 8, b"ARROW1\0\0" + WHOLE],
)  # fmt: skip
def test_what_is_no_stream_is_refused(body: bytes) -> None:
    """Cut short, with more behind it, a file in place of a stream, or other bytes; nothing is raised."""
    assert isinstance(ARROW.decode(body), MalformedBodyError)


@given(st.integers(0, len(WHOLE) - 1), st.integers(0, 255))
def test_altered_stream_is_read_or_refused(place: int, byte: int) -> None:
    """Whatever byte is another: the lengths, offsets and types in it may all lie."""
    found = ARROW.decode(WHOLE[:place] + bytes([byte]) + WHOLE[place + 1 :])
    assert isinstance(found, list | MalformedBodyError | InvalidRequestError | BodyTooLargeError)


def altered(body: bytes, old: bytes, new: bytes) -> bytes:
    """Return a stream with other bytes in one place."""
    assert body.count(old) == 1
    return body.replace(old, new)


OFFSETS = struct.pack("<3i", 0, 1, 2)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (OFFSETS, struct.pack("<3i", 0, 1, 2**30)),
        (OFFSETS, struct.pack("<3i", 0, -5, 2)),
        (OFFSETS, struct.pack("<3i", 0, 2, 1)),
        (b"ab\0\0", b"a\xff\0\0"),
    ],
)
def test_offsets_that_lie_are_refused(old: bytes, new: bytes) -> None:
    """Past the end, backwards, or around what is no text."""
    assert isinstance(ARROW.decode(altered(WHOLE, old, new)), MalformedBodyError)


def test_index_past_its_dictionary_is_refused() -> None:
    """And a dictionary that grows within the stream, whose parts would be copied again and again."""
    made = pa.DictionaryArray.from_arrays(pa.array([7_654, 0, 1], pa.int16()), pa.array(["a", "b"]), safe=False)
    assert isinstance(ARROW.decode(columns(name=made)), MalformedBodyError)
    sink = pa.BufferOutputStream()
    parts = [pa.record_batch({"name": pa.array(values).dictionary_encode()}) for values in (["a"], ["a", "b"])]
    with pa.ipc.new_stream(
        sink, parts[0].schema, options=pa.ipc.IpcWriteOptions(emit_dictionary_deltas=True)
    ) as writer:
        for part in parts:
            writer.write_batch(part)
    found = ARROW.decode(sink.getvalue().to_pybytes())
    assert isinstance(found, MalformedBodyError)
    assert "grows" in found.what


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
def test_compressed_bomb_is_refused_unpacked(compression: str) -> None:
    """A few kilobytes that would be a hundred megabytes: nothing is set aside for them."""
    body = columns(compression, name=["a" * 100_000_000], amount=[1.0])
    assert len(body) < LIMIT
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    try:
        assert isinstance(ARROW.decode(body), BodyTooLargeError)
        assert tracemalloc.get_traced_memory()[1] < 3 * LIMIT
    finally:
        tracemalloc.stop()
    assert pa.total_allocated_bytes() - before < LIMIT


def nested_nulls() -> bytes:
    """Return a stream of one row with a list of a billion nulls: no byte each."""
    nulls = pa.nulls(10**9)
    return columns(name=pa.ListArray.from_arrays(pa.array([0, 10**9], pa.int32()), nulls))


def long_texts() -> bytes:
    """Return a stream of rows that all have the one long text of a dictionary."""
    return columns(name=pa.DictionaryArray.from_arrays(pa.array([0] * 20, pa.int8()), pa.array(["a" * 200_000])))


def many_rows() -> bytes:
    """Return a stream of a billion rows without a byte."""
    return columns(name=pa.nulls(10**9))


def many_columns() -> bytes:
    """Return a stream of many lists within lists."""
    values = pa.array([[[1] * 1000] * (ELEMENTS_MAX // 1000 + 1)])
    return columns(name=values)


def many_times() -> bytes:
    """Return a stream of many times, each of which takes as long as several numbers."""
    return columns("zstd", name=pa.array([[0] * (ELEMENTS_MAX // 4)], pa.list_(pa.timestamp("s", "UTC"))))


def many_messages() -> bytes:
    """Return a stream of many batches without a row."""
    batch = pa.record_batch({"name": pa.array([], pa.string())})
    return stream(*[batch] * MESSAGES_MAX)


@pytest.mark.parametrize("make", [nested_nulls, long_texts, many_rows, many_columns, many_times, many_messages])
def test_few_bytes_that_stand_for_much_are_refused(make: Callable[[], bytes]) -> None:
    """Before anything is made of them."""
    body = make()
    tracemalloc.start()
    try:
        assert isinstance(ARROW.decode(body), InvalidRequestError | MalformedBodyError)
        assert tracemalloc.get_traced_memory()[1] < 16 * LIMIT
    finally:
        tracemalloc.stop()


def test_column_that_is_there_twice_is_refused() -> None:
    """Another reader may take the other one."""
    batch = pa.RecordBatch.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["name", "name"])
    assert isinstance(ARROW.decode(stream(batch)), MalformedBodyError)


def test_answers_are_rows_of_a_stream() -> None:
    """One or many; what is not finite is null, and what has no column of its own is JSON."""
    answers = [Answer(0.5, "a", ("x",), {"y": 1.0}), Answer(math.nan)]
    found = pa.ipc.open_stream(ARROW.encode(answers)).read_all()
    assert found.to_pylist() == [
        {"score": 0.5, "label": "a", "reasons": ["x"], "parts": '{"y":1.0}'},
        {"score": None, "label": None, "reasons": [], "parts": None},
    ]
    assert found.schema.field("score").type == pa.float64()
    first, none = ARROW.encode_each([answers[0], []])
    assert pa.ipc.open_stream(first).read_all().num_rows == 1
    assert pa.ipc.open_stream(none).read_all().schema == found.schema
