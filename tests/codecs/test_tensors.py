"""Tensors as bytes and as JSON, and fields as tensors: what goes in comes out, and nothing else goes in."""

from __future__ import annotations

import datetime as dt
import math
import struct
import uuid
from decimal import Decimal
from enum import IntEnum
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tailrace as tr
from tailrace.codecs.json import JsonCodec
from tailrace.codecs.tensor_fields import tensor_fields
from tailrace.codecs.tensor_form import TensorForm
from tailrace.codecs.tensors import FORMATS, SIZES, TEXT, TEXTS_MAX, from_bytes, from_elements, from_json, to_bytes
from tailrace.errors import InvalidTensorError, ServingError

NUMBERS = {
    "BOOL": st.booleans(),
    "FP64": st.floats(allow_nan=False, allow_infinity=False),
    "INT64": st.integers(-(2**63), 2**63 - 1),
    "UINT8": st.integers(0, 255),
}


@given(st.data(), st.sampled_from(sorted(NUMBERS)))
def test_numbers_come_back_from_bytes_and_json(data: st.DataObject, datatype: str) -> None:
    """Of any shape, with as many as it says."""
    values = data.draw(st.lists(NUMBERS[datatype], max_size=20))
    shape = [len(values), 1]
    assert from_bytes(to_bytes(values, datatype), datatype, shape, nullable=False) == values
    assert from_json(list(values), datatype, shape, nullable=False) == values
    assert from_json([[each] for each in values], datatype, shape, nullable=False) == values
    assert from_elements(list(values), datatype, shape, nullable=False) == values
    for wrong in ([len(values) + 1], [len(values), 2] if values else [1]):
        with pytest.raises(InvalidTensorError):
            from_bytes(to_bytes(values, datatype), datatype, wrong, nullable=False)
        with pytest.raises(InvalidTensorError):
            from_json(values, datatype, wrong, nullable=False)


@given(st.lists(st.binary(max_size=9), max_size=9))
def test_texts_come_back_from_bytes(values: list[bytes]) -> None:
    """Whatever they hold; one byte less or more is none of them."""
    content = to_bytes(values, TEXT)
    assert from_bytes(content, TEXT, [len(values)], nullable=False) == values
    for wrong in (content[:-1], content + b"\0"):
        if wrong != content:
            with pytest.raises(InvalidTensorError):
                from_bytes(wrong, TEXT, [len(values)], nullable=False)


@given(
    st.binary(max_size=64),
    st.sampled_from([*FORMATS, TEXT]),
    st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=8),
)
def test_bytes_of_any_shape_are_elements_or_refused(content: bytes, datatype: str, shape: list[int]) -> None:
    """Nothing is made for a shape that the bytes do not have."""
    try:
        found = from_bytes(content, datatype, shape, nullable=True)
    except InvalidTensorError:
        return
    assert len(found) == math.prod(shape)
    assert datatype == TEXT or len(found) * SIZES[datatype] == len(content)


def test_texts_of_a_tensor_are_bounded() -> None:
    """A tensor of bytes has so many texts at most; each is found by the length before it."""
    assert len(from_bytes(bytes(4 * TEXTS_MAX), TEXT, [1, TEXTS_MAX], nullable=False)) == TEXTS_MAX
    with pytest.raises(InvalidTensorError, match=str(TEXTS_MAX)):
        from_bytes(bytes(4 * TEXTS_MAX + 4), TEXT, [1, TEXTS_MAX + 1], nullable=False)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_number_that_is_not_finite_is_refused(number: float) -> None:
    """But for NaN where None may be; large numbers whose sum is not finite are numbers."""
    content = struct.pack("<2d", 1.0, number)
    with pytest.raises(InvalidTensorError, match="finite"):
        from_bytes(content, "FP64", [2], nullable=False)
    if number == number:  # noqa: PLR0124 - NaN is not
        with pytest.raises(InvalidTensorError, match="finite"):
            from_bytes(content, "FP64", [2], nullable=True)
    else:
        assert from_bytes(content, "FP64", [2], nullable=True) == [1.0, None]
    assert from_bytes(struct.pack("<2d", 1e308, 1e308), "FP64", [2], nullable=False) == [1e308, 1e308]


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Inner(msgspec.Struct):
    a: int


class Kinds(tr.Request):
    number: float
    bounded: Annotated[int, tr.Field(ge=0)]
    level: Level = Level.LOW
    mode: Literal["a", "b"] = "a"
    mixed: Literal["a", 1] = "a"
    day: dt.date = dt.date(2026, 1, 1)
    span: dt.timedelta = dt.timedelta(0)
    key: uuid.UUID = uuid.UUID(int=0)
    price: Decimal = Decimal(0)
    either: int | str = 0
    inner: Inner | None = None
    inners: list[Inner] = msgspec.field(default_factory=list)
    holes: list[int | None] = msgspec.field(default_factory=list)
    pair: tuple[int, str] = (0, "")
    words: tuple[str, ...] = ()
    renamed: int = msgspec.field(default=0, name="re-named")


def test_kind_of_a_field_decides_its_tensor() -> None:
    """What has no datatype of its own is the text of its JSON; a field goes by the name that callers write."""
    found = {name: (field.datatype, field.shape, field.kind) for name, field in tensor_fields(Kinds).items()}
    assert found["number"] == ("FP64", [-1], "float")
    assert found["bounded"] == found["re-named"] == found["level"] == ("INT64", [-1], "int")
    for name in ("mode", "day", "span", "key", "price"):
        assert found[name] == ("BYTES", [-1], "text")
    for name in ("mixed", "either", "inner", "inners", "holes", "pair"):
        assert found[name] == ("BYTES", [-1], "object")
    assert found["words"] == ("BYTES", [-1, -1], "text")
    assert "renamed" not in found


class Scored(tr.Response):
    score: float


FORM = TensorForm(Kinds, Scored, array_max=10)


@given(
    st.lists(
        st.fixed_dictionaries({
            "number": st.floats(allow_nan=False, allow_infinity=False), "bounded": st.integers(-1, 2**63 - 1),
            "re-named": st.integers(-(2**63), 2**63 - 1),
        }),
        min_size=1, max_size=4,
    )
)  # fmt: skip
def test_columns_are_the_requests_that_json_is(rows: list[dict[str, Any]]) -> None:
    """The same values in columns and in JSON are the same requests, or are refused by both."""
    names = list(rows[0])
    columns = [[row[name] for row in rows] for name in names]
    expected = JsonCodec(Kinds, array_max=10).decode(msgspec.json.encode(rows if len(rows) > 1 else rows[0]))
    if isinstance(expected, ServingError):
        with pytest.raises(InvalidTensorError) as caught:
            FORM.requests(names, columns, len(rows))
        assert caught.value.where.startswith("bounded")
    else:
        found = FORM.requests(names, columns, len(rows))
        assert msgspec.to_builtins(found) == msgspec.to_builtins(expected)
