from __future__ import annotations

import datetime as dt
from enum import Enum, IntEnum
from typing import Any, Literal

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.request.columns import columns_type
from tailrace.request.schema import Request, field_specs


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Kind(Enum):
    ONE = "one"
    TWO = "two"


class Everything(Request):
    number: int
    fraction: float
    flag: bool
    text: str
    time: dt.datetime
    day: dt.date
    level: Level
    kind: Kind
    word: Literal["a", "b"]
    size: Literal[1, 2]
    tags: list[str]
    sizes: list[int]
    maybe_number: int | None = None
    maybe_text: str | None = None
    maybe_time: dt.datetime | None = None
    maybe_day: dt.date | None = None
    maybe_flag: bool | None = None
    maybe_kind: Kind | None = None
    maybe_word: Literal["a", None] = None
    maybe_size: Literal[1, None] = None
    maybe_sizes: list[int] | None = None


ZONES = st.sampled_from([None, dt.UTC, dt.timezone(dt.timedelta(hours=-7)), dt.timezone(dt.timedelta(minutes=345))])
TIMES = st.datetimes(dt.datetime(1835, 1, 1), dt.datetime(2105, 1, 1), timezones=ZONES)
EVERYTHING = st.builds(
    Everything,
    number=st.integers(-(2**63), 2**63 - 1),
    fraction=st.floats(allow_nan=False),
    flag=st.booleans(),
    text=st.text(max_size=5),
    time=TIMES,
    day=st.dates(),
    level=st.sampled_from(Level),
    kind=st.sampled_from(Kind),
    word=st.sampled_from(["a", "b"]),
    size=st.sampled_from([1, 2]),
    tags=st.lists(st.text(max_size=2), max_size=2),
    sizes=st.lists(st.integers(0, 9), max_size=2),
    maybe_number=st.none() | st.integers(-(2**50), 2**50),
    maybe_text=st.none() | st.text(max_size=5),
    maybe_time=st.none() | TIMES,
    maybe_day=st.none() | st.dates(),
    maybe_flag=st.none() | st.booleans(),
    maybe_kind=st.none() | st.sampled_from(Kind),
    maybe_word=st.sampled_from(["a", None]),
    maybe_size=st.sampled_from([1, None]),
    maybe_sizes=st.none() | st.lists(st.integers(0, 9), max_size=2),
)


def utc(value: dt.datetime | None) -> Any:
    """Return a time as NumPy has it: UTC, without a zone."""
    if value is None:
        return np.datetime64("NaT", "us")
    return np.datetime64(value.astimezone(dt.UTC).replace(tzinfo=None) if value.tzinfo else value, "us")


def plain(value: Any) -> Any:
    """Return what an element of a column should be for a value."""
    if isinstance(value, Enum):
        return value.value
    return value


@given(st.lists(EVERYTHING, max_size=6))
def test_columns_equal_the_values_of_the_requests(requests: list[Everything]) -> None:
    """A column has each request's value, of the dtype told; None is NaN, "" or NaT."""
    columns = columns_type(Everything, None)(requests, None)
    for name, spec in field_specs(Everything).items():
        column = getattr(columns, name)
        values = [getattr(request, name) for request in requests]
        assert column.shape == (len(requests),), name
        assert column.dtype == (object if spec.many else spec.dtype), name
        if spec.dtype == np.dtype("datetime64[us]"):
            expected = np.array([utc(value) for value in values], "datetime64[us]")
        elif spec.dtype.kind == "M":
            days = ["NaT" if value is None else value.isoformat() for value in values]
            expected = np.array(days, "datetime64[D]")
        elif spec.dtype.kind == "O" or spec.many:
            assert list(column) == ["" if value is None else plain(value) for value in values], name
            continue
        else:
            expected = np.array([np.nan if value is None else plain(value) for value in values], spec.dtype)
        np.testing.assert_array_equal(column, expected, name)


class Listed(Request):
    ids: list[int]
    user: str
    time: dt.datetime


@given(st.lists(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5), max_size=6))
def test_columns_of_listed_requests_have_a_row_an_id(lists: list[list[int]]) -> None:
    """The list's own column is flat; every other is repeated for each of its request's rows."""
    time = dt.datetime(2026, 1, 1)
    requests = [Listed(ids=ids, user=f"u{index}", time=time) for index, ids in enumerate(lists)]
    row_request = np.repeat(np.arange(len(lists)), [len(ids) for ids in lists])
    columns = columns_type(Listed, "ids")(requests, row_request)
    assert columns.ids.tolist() == [each for ids in lists for each in ids]
    assert columns.user.tolist() == [f"u{index}" for index, ids in enumerate(lists) for _ in ids]
    assert len(columns.time) == len(columns.ids)
    assert columns.ids.dtype == np.int64


def test_column_is_made_once() -> None:
    """A column that several features read is the same array."""
    columns = columns_type(Listed, None)([Listed(ids=[1], user="a", time=dt.datetime(2026, 1, 1))], None)
    assert columns.user is columns.user
    with pytest.raises(AttributeError):
        _ = columns.nothing  # type: ignore[attr-defined]


def test_field_with_another_name_in_json_keeps_its_own() -> None:
    """`rename` changes the JSON, not how features name the field."""

    class Camel(Request, rename="camel"):
        customer_id: int

    assert list(field_specs(Camel)) == ["customer_id"]
    request = msgspec.json.decode(b'{"customerId":5}', type=Camel)
    assert columns_type(Camel, None)([request], None).customer_id.tolist() == [5]


def test_columns_cannot_be_changed_in_place() -> None:
    """What one function would write, all others would read."""
    columns = columns_type(Everything, None)([], None)
    for name in field_specs(Everything):
        with pytest.raises(ValueError, match="read-only"):
            getattr(columns, name)[:] = 0
