"""Feast's format read by hand: hashes, keys, values, times, and rows made of them."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tailrace as tr
from tailrace.batch import Degraded, Provenance
from tailrace.features.feast.codec import FeastCodec
from tailrace.features.feast.declaration import FeastView
from tailrace.features.feast.frames import Frames
from tailrace.features.feast.keys import FeastKeys
from tailrace.features.feast.murmur import murmur3
from tailrace.features.feast.values import read_time, reader_of
from tailrace.features.keys import composite_id, entity_checks
from tailrace.features.row_packer import RowPacker
from tailrace.features.rows import RowCodec

customer = tr.Entity("customer", key="customer_id")
INT64S = st.integers(-(1 << 63), (1 << 63) - 1)


class Stats(tr.BatchFeatureView):
    """A column of each type."""

    entity = customer
    source = tr.Parquet("stats.parquet")
    max_staleness = "1d"
    feast = tr.FeastView("stats", join_key="customer_id")
    payments: int = 5
    mean: float = 0.5
    share: np.float32 = 0.25
    city: str = "nowhere"
    is_new: bool = True
    grade: np.int32 = 9
    country: str = ""


VALUES = st.tuples(
    st.none() | INT64S, st.none() | st.floats(), st.none() | st.floats(width=32), st.none() | st.text(max_size=40),
    st.none() | st.booleans(), st.none() | st.integers(-(1 << 31), (1 << 31) - 1), st.none() | st.text(max_size=40),
)  # fmt: skip


def varint(number: int) -> bytes:
    """Return a number as protobuf writes it."""
    number %= 1 << 64
    parts = []
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])


def value(kind: str, held: Any) -> bytes:
    """Return a Value of Feast's, b"" for a null."""
    if held is None:
        return b""
    match kind:
        case "string":
            return b"\x12" + varint(len(held.encode())) + held.encode()
        case "double":
            return b"\x29" + struct.pack("<d", held)
        case "float":
            return b"\x35" + struct.pack("<f", held)
    return bytes([{"int32": 0x18, "int64": 0x20, "bool": 0x38}[kind]]) + varint(int(held))


KINDS = ("int64", "double", "float", "string", "bool", "int32", "string")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", 0), ("hello", 0x248BFA47), ("hello, world", 0x149BBB7F),
     ("The quick brown fox jumps over the lazy dog", 0x2E4FF723)],
)  # fmt: skip
def test_murmur3_of_known_texts(text: str, expected: int) -> None:
    """The hash is the one that its author's tests give."""
    assert murmur3(text.encode()) == expected


def test_keys_are_those_of_both_versions() -> None:
    """A key is what Feast 0.67 serialises: type and length before each part, in version 2 no length of the name."""
    view = FeastView("stats", "id")
    third = b"\x07\x00" + struct.pack("<IIIs", 1, 2, 2, b"i") + b"d" + struct.pack("<IIq", 4, 8, -4)
    assert FeastKeys(view, 7, 3).keys([-4]) == [third]
    second = b"\x00\x00" + struct.pack("<I2sII", 2, b"id", 2, 2) + "ø".encode()
    assert FeastKeys(view, 0, 2).keys(["ø"]) == [second]


def test_key_types_are_those_that_feast_has() -> None:
    """An entity of int32 or of text has other keys than one of int64; one that does not fit has a key all the same."""
    (short,) = FeastKeys(FeastView("stats", "id", key_type="int32"), 0, 3).keys([5])
    assert short.endswith(struct.pack("<IIi", 3, 4, 5))
    (text,) = FeastKeys(FeastView("stats", "id", key_type="string"), 0, 3).keys([5])
    assert text.endswith(struct.pack("<II", 2, 1) + b"5")
    assert len(set(FeastKeys(FeastView("stats", "id", key_type="int32"), 0, 3).keys([1 << 31, 1 << 70, "\ud800"]))) == 3


@given(INT64S)
def test_value_of_whole_number_reads_back(number: int) -> None:
    """Every int64 is read as it was written; as a float only where that is exact."""
    assert reader_of(np.dtype("<i8"))(value("int64", number)) == number
    if float(number) == number:
        assert reader_of(np.dtype("<f8"))(value("int64", number)) == number
    else:
        with pytest.raises(ValueError, match="no float"):
            reader_of(np.dtype("<f8"))(value("int64", number))


@pytest.mark.parametrize(
    ("dtype", "data"),
    [("<i8", value("double", 1.5)), ("<i8", value("string", "1")), ("<f8", value("string", "1")),
     ("O", value("int64", 1)), ("?", value("int64", 1)), ("<i8", value("bool", True)), ("<f8", b"\x29\x00"),
     ("O", b"\x12\x05abc"), ("O", b"\x12\x02\xff\xfe"), ("<i8", b"\x20"), ("<i8", b"\x20\xff"),
     ("<i8", b"\x20\x01\x20\x02"), ("O", b"\x12\x01a\x12"), ("<f8", b"\x98\x01\x00\x00"),
     ("O", value("string", "x" * 5_000))],
)  # fmt: skip
def test_value_that_is_broken_or_of_another_type_is_refused(dtype: str, data: bytes) -> None:
    """What a column cannot hold is no value of it."""
    with pytest.raises(ValueError, match=r"."):
        reader_of(np.dtype(dtype))(data)


def test_null_is_none() -> None:
    """Feast writes a null as no field, as a field of its own, or, of a time, as the least int64."""
    for dtype in ("<i8", "<f8", "?", "O"):
        assert reader_of(np.dtype(dtype))(b"") is None
        assert reader_of(np.dtype(dtype))(b"\x98\x01\x00") is None
    assert reader_of(np.dtype("<i8"))(b"\x40" + varint(-(1 << 63))) is None  # a time
    assert reader_of(np.dtype("<i8"))(b"\x20" + varint(-(1 << 63))) == -(1 << 63)


@given(st.integers(-9_000_000_000, 9_000_000_000), st.integers(0, 999_999_999))
def test_time_reads_back(seconds: int, nanos: int) -> None:
    """A Timestamp is seconds and nanoseconds, either left out where it is 0."""
    data = (b"\x08" + varint(seconds) if seconds else b"") + (b"\x10" + varint(nanos) if nanos else b"")
    assert read_time(data) == seconds * 1_000_000_000 + nanos


@pytest.mark.parametrize("data", [b"\x08", b"\x08\xff", b"text", b"\x08" + varint(1 << 62)])
def test_time_that_is_broken_is_refused(data: bytes) -> None:
    """No time is guessed."""
    with pytest.raises(ValueError, match=r"time|cut short"):
        read_time(data)


@given(st.lists(st.tuples(INT64S, INT64S, VALUES), min_size=1, max_size=5))
def test_rows_packed_one_by_one_are_those_of_the_codec(rows: list[tuple[int, int, tuple[Any, ...]]]) -> None:
    """A row that is packed alone is, byte for byte, the row that a materialisation would write."""
    codec, packer = RowCodec(Stats.spec), RowPacker(Stats.spec)
    for entity_id, event_ns, values in rows:
        columns = {column.name: [held] for column, held in zip(Stats.spec.columns, values, strict=True)}
        (expected,) = codec.pack([entity_id], columns, event_ns, event_ns)
        held = [each.encode("utf-8", "replace") if isinstance(each, str) else each for each in values]
        assert packer.pack(entity_checks([entity_id])[0], event_ns, held) == expected


def framed(codec: FeastCodec, entity_id: int, event_ns: int, values: tuple[Any, ...]) -> bytes:
    """Return the frame of an entity's values."""
    parts = [value(kind, held) for kind, held in zip(KINDS, values, strict=True)]
    return Frames(len(KINDS)).pack(codec.keys([entity_id])[0], event_ns, parts)


WHOLE = (7, 2.5, 0.125, "Oslo", False, -3, "NO")


def codec_of_stats() -> FeastCodec:
    """Return the codec of the view."""
    assert Stats.spec.feast is not None
    return FeastCodec(Stats.spec, Stats.spec.feast, 0, 3)


def test_codec_tells_fresh_stale_unknown_and_null() -> None:
    """Provenance and nulls are as of a batch view's own rows."""
    codec, now_ns = codec_of_stats(), 10**18
    old_ns = now_ns - 2 * 86_400 * 10**9
    nulls = (None,) * len(KINDS)
    rows = [framed(codec, 1, now_ns, WHOLE), framed(codec, 2, old_ns, WHOLE), None, framed(codec, 4, now_ns, nulls)]
    found = codec.unpack([1, 2, 3, 4], rows, now_ns)
    fresh, stale, default = Provenance.FRESH, Provenance.STALE, Provenance.DEFAULT
    assert found.provenance.tolist() == [fresh, stale, default, fresh]
    assert found.column("payments").tolist() == [7, 7, 5, 5]
    assert found.column("city").tolist() == ["Oslo", "Oslo", "nowhere", "nowhere"]
    assert found.column("is_new").tolist() == [False, False, True, True]
    assert found.nulls is not None
    assert found.nulls.tolist() == [[False] * 7] * 3 + [[True] * 7]
    assert found.errors == 0


@given(st.data())
def test_codec_never_serves_broken_or_anothers_values(data: st.DataObject) -> None:
    """A frame of another entity, or one cut short, gives that row's defaults, counted; its neighbour is served."""
    codec, now_ns = codec_of_stats(), 10**18
    frame = framed(codec, 2, now_ns, WHOLE)
    own, timeless = framed(codec, 1, now_ns, WHOLE), framed(codec, 1, -(1 << 63), WHOLE)
    cut = st.integers(0, len(own) - 1).map(lambda end: own[:end])
    wrong = data.draw(st.sampled_from([frame, timeless, own + b"x"]) | cut)
    found = codec.unpack([1, 2], [wrong, frame], now_ns)
    assert found.errors == 1
    assert found.provenance.tolist() == [Provenance.DEFAULT, Provenance.FRESH]
    assert found.column("city").tolist() == ["nowhere", "Oslo"]
    assert found.degraded is not None
    assert found.degraded.tolist() == [Degraded.STORE_ERROR, 0]


def test_codec_refuses_number_that_the_column_cannot_hold() -> None:
    """An int64 of Feast's that a narrower column cannot hold is never cut to fit."""
    codec = codec_of_stats()
    parts = [value(kind, held) for kind, held in zip(KINDS, WHOLE, strict=True)]
    parts[5] = value("int64", 1 << 40)
    frame = Frames(len(KINDS)).pack(codec.keys([1])[0], 0, parts)
    assert codec.unpack([1], [frame], 0).errors == 1


def test_join_keys_that_do_not_match_the_entity_are_a_mistake_that_is_told() -> None:
    """One join key for each field: else every key would be one of no row."""

    class Pairs(tr.BatchFeatureView):
        """Of two join keys, and one field."""

        entity = customer
        source = tr.Parquet("pairs.parquet")
        feast = tr.FeastView("pairs", join_key=("customer_id", "shop_id"))
        visits: int = 0

    (problem,) = Pairs.spec.problems
    assert "does not match the entity's key" in problem.what
    assert "each field" in problem.next


def test_keys_of_several_parts_are_sorted_by_their_names() -> None:
    """Feast sorts the join keys; the parts of an id follow them, and a text's quotes and commas part nothing."""
    view = FeastView("pairs", ("shop", "id"), key_type=("string", "int32"))
    keys = FeastKeys(view, 0, 3)
    head = struct.pack("<III2s", 2, 2, 2, b"id") + struct.pack("<II", 2, 4) + b"shop"
    expected = b"\x00\x00" + head + struct.pack("<IIi", 3, 4, -7) + struct.pack("<II", 2, 4) + b'a,"b'
    assert keys.keys([composite_id(('a,"b', -7))]) == [expected]
    assert keys.keys(["broken"]) == [b"\x00\x00" + head]


def test_mistakes_in_how_feast_calls_a_view_are_told() -> None:
    """Each of them is a problem with its place."""

    class Wrong(tr.BatchFeatureView):
        """With two mistakes."""

        entity = customer
        source = tr.Parquet("stats.parquet")
        feast = tr.FeastView("", join_key="customer_id", key_type="uuid", features={"missing": "x"})
        visits: int = 0

    assert [problem.where for problem in Wrong.spec.problems] == ["features.Wrong.feast"] * 3

    class NoView(tr.BatchFeatureView):
        """With a text in place of a FeastView."""

        entity = customer
        source = tr.Parquet("stats.parquet")
        feast = "stats"  # type: ignore[assignment]
        visits: int = 0

    assert "is not a FeastView" in NoView.spec.problems[0].what
