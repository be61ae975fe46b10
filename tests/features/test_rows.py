"""Packed rows: what is written comes back; what is not a row of this view and entity never does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from view_samples import DAY_NS, WALL_NS, Address, Profile, address_rows, profile_rows

from tailrace.batch import Degraded, Provenance
from tailrace.features.batch_views import BatchFeatureView
from tailrace.features.rows import RowCodec
from tailrace.features.sources import Parquet
from tailrace.features.view_spec import STRING_BYTES_MAX, Entity

_TEXTS = st.text(max_size=40)
_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "f8": st.floats(),
    "f4": st.floats(width=32),
    "i8": st.integers(-(2**63), 2**63 - 1),
    "u8": st.integers(0, 2**64 - 1),
    "i2": st.integers(-(2**15), 2**15 - 1),
    "flag": st.booleans(),
    "text": _TEXTS,
    "more": _TEXTS,
}


class Every(BatchFeatureView):
    """A column of each kind, mixed."""

    entity = Entity("thing", key="thing_id")
    source = Parquet("x")
    flag: bool = True
    f8: float = 0.5
    text: str = "default"
    i2: np.int16 = -7  # type: ignore[assignment]
    i8: int = 3
    f4: np.float32 = 0.25  # type: ignore[assignment]
    more: str = ""
    u8: np.uint64 = 2**64 - 1  # type: ignore[assignment]


@given(
    st.lists(
        st.fixed_dictionaries({name: st.none() | values for name, values in _VALUES.items()}), min_size=1, max_size=9
    ),
    st.booleans(),
)
@settings(deadline=None)
def test_row_codec_gives_back_what_was_packed(rows: list[dict[str, Any]], texts: bool) -> None:
    """Every value comes back bit by bit, extreme numbers and empty texts too; a null comes back as the default."""
    codec = RowCodec(Every.spec)
    ids: list[Any] = [f"id {index}" for index in range(len(rows))] if texts else list(range(-1, len(rows) - 1))
    packed = codec.pack(ids, {name: [row[name] for row in rows] for name in _VALUES}, WALL_NS, WALL_NS)
    found = codec.unpack(ids, packed, WALL_NS)
    assert (found.errors, found.provenance.tolist(), found.degraded) == (0, [Provenance.FRESH] * len(rows), None)
    for index, column in enumerate(Every.spec.columns):
        wanted = [column.default if row[column.name] is None else row[column.name] for row in rows]
        values = found.column(column.name)
        assert values.tolist() == wanted or np.array_equal(values, np.array(wanted, column.dtype), equal_nan=True)
        nulls = [row[column.name] is None for row in rows]
        assert (found.nulls[:, index].tolist() if found.nulls is not None else [False] * len(rows)) == nulls


@given(
    st.lists(st.none() | st.binary(max_size=200) | st.integers(0, 300), min_size=1, max_size=12),
    st.sampled_from([Profile, Address]),
)
@settings(deadline=None)
def test_row_codec_never_serves_a_damaged_row(damage: list[bytes | int | None], view: type[BatchFeatureView]) -> None:
    """Missing rows, garbage and rows cut short give defaults; the whole rows beside them are untouched."""
    codec = RowCodec(view.spec)
    ids = list(range(len(damage)))
    whole = list((profile_rows if view is Profile else address_rows)(ids).values())
    rows: list[bytes | None] = [
        each if each is None or isinstance(each, bytes) else row[:each] for each, row in zip(damage, whole, strict=True)
    ]
    found = codec.unpack(ids, rows, WALL_NS)
    expected = codec.unpack(ids, whole, WALL_NS)
    for index, (row, right) in enumerate(zip(rows, whole, strict=True)):
        intact = row == right
        assert found.provenance[index] == (Provenance.FRESH if intact else Provenance.DEFAULT)
        for column in view.spec.columns:
            value = found.column(column.name)[index]
            assert value == (expected.column(column.name)[index] if intact else column.default)
    assert found.errors == sum(row is not None and row != right for row, right in zip(rows, whole, strict=True))


@pytest.mark.parametrize(("view", "make"), [(Profile, profile_rows), (Address, address_rows)])
def test_row_codec_refuses_another_entitys_row(view: type[BatchFeatureView], make: Any) -> None:
    """Rows that come back in the wrong order are defaults, counted, and told as degraded."""
    codec = RowCodec(view.spec)
    for ids in ([11, 12, 13], ["a", "b", "c"]):
        rows = list(make(ids).values())
        found = codec.unpack(ids, [rows[0], rows[2], rows[1]], WALL_NS)
        assert found.errors == 2
        assert found.provenance.tolist() == [Provenance.FRESH, Provenance.DEFAULT, Provenance.DEFAULT]
        assert found.degraded is not None
        assert found.degraded.tolist() == [0, Degraded.STORE_ERROR, Degraded.STORE_ERROR]
        name = view.spec.columns[0].name
        assert found.column(name)[1] == found.column(name)[2] == view.spec.columns[0].default


def test_row_codec_refuses_a_row_of_another_schema() -> None:
    """A view whose column changed its type reads none of the old rows, though they have the same length."""
    view = type(
        "Profile",
        (BatchFeatureView,),
        {
            "__annotations__": {"amount": float, "count": float, "known": bool},
            "amount": 1.5, "count": -1.0, "known": True, "entity": Profile.entity, "source": Profile.source,
        },
    )  # fmt: skip
    codec = RowCodec(view.spec)  # type: ignore[attr-defined]
    rows = list(profile_rows([1, 2]).values())
    found = codec.unpack([1, 2], rows, WALL_NS)
    assert found.errors == 2
    assert found.data["count"].tolist() == [-1.0, -1.0]


def test_row_codec_tells_stale_rows() -> None:
    """A row older than `max_staleness` is served and told as stale; one as old as that exactly is fresh."""
    codec = RowCodec(Profile.spec)
    rows = [*profile_rows([1], WALL_NS - DAY_NS).values(), *profile_rows([2], WALL_NS - DAY_NS - 1).values(), None]
    for clean in (rows[:2], rows):
        found = codec.unpack([1, 2, 3][: len(clean)], clean, WALL_NS)
        assert found.provenance.tolist()[:2] == [Provenance.FRESH, Provenance.STALE]
        assert found.degraded is not None
        assert found.degraded.tolist() == [0, Degraded.STALE_FEATURES, 0][: len(clean)]
        assert found.data["amount"].tolist()[:2] == [0.5, 0.5]


def test_row_codec_answers_defaults_for_unknown_entities() -> None:
    """A missing row is the view's defaults, neither an error nor degraded; its neighbours are served."""
    codec = RowCodec(Profile.spec)
    row = profile_rows([8])[codec.key(8)]
    found = codec.unpack([7, 8], [None, row], WALL_NS)
    assert found.data[["amount", "count", "known"]].tolist() == [(1.5, -1, True), (0.5, 0, False)]
    assert found.provenance.tolist() == [Provenance.DEFAULT, Provenance.FRESH]
    assert (found.errors, found.degraded, found.nulls) == (0, None, None)


@pytest.mark.parametrize("view", [Profile, Address])
def test_row_codec_takes_an_empty_batch(view: type[BatchFeatureView]) -> None:
    """A request about no items has no rows."""
    found = RowCodec(view.spec).unpack([], [], WALL_NS)
    assert len(found) == len(found.provenance) == 0
    assert [len(found.column(column.name)) for column in view.spec.columns] == [0] * len(view.spec.columns)


def test_row_codec_blocks_are_the_columns_of_one_type() -> None:
    """Columns of one type are one strided matrix in declared order."""
    codec = RowCodec(Profile.spec)
    found = codec.unpack([4], list(profile_rows([4]).values()), WALL_NS)
    assert [(block.dtype.name, block.columns) for block in codec.blocks] == [
        ("float64", ("amount",)),
        ("int64", ("count",)),
        ("bool", ("known",)),
    ]
    assert [found.data[block.field].shape for block in codec.blocks] == [(1, 1)] * 3


def test_row_codec_refuses_to_pack_a_text_over_the_limit() -> None:
    """Rows stay bounded."""
    columns = {"risk": [0.0], "country": ["é" * STRING_BYTES_MAX], "city": [""]}
    with pytest.raises(ValueError, match="country"):
        RowCodec(Address.spec).pack([1], columns, 0, 0)


def test_row_codec_packs_masked_arrays() -> None:
    """A masked value is a null."""
    codec = RowCodec(Profile.spec)
    columns = {
        "amount": np.ma.MaskedArray([1.0, 2.0], [True, False]),
        "count": np.array([5, 6]),
        "known": np.ma.MaskedArray([False, False], [False, True]),
    }
    found = codec.unpack([1, 2], codec.pack([1, 2], columns, np.array([1, 2]), 3), 10)
    assert found.data[["amount", "count", "known"]].tolist() == [(1.5, 5, False), (2.0, 6, True)]
    assert found.nulls is not None
    assert found.nulls.tolist() == [[True, False, False], [False, False, True]]
    assert found.data["$event"].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("i8", 3.7),
        ("i2", 70_000),
        ("i8", float("nan")),
        ("i8", "7"),
        ("flag", 0.5),
        ("flag", "no"),
        ("f4", 1e39),
        ("u8", -1),
    ],
)
def test_row_codec_refuses_to_pack_what_would_be_another_value(column: str, value: Any) -> None:
    """A value that its column's type does not hold is told with both, not cut to fit."""
    columns = {each.name: [None, None] for each in Every.spec.columns} | {column: [None, value]}
    with pytest.raises(ValueError, match=f"^{column}: "):
        RowCodec(Every.spec).pack([1, 2], columns, WALL_NS, WALL_NS)
