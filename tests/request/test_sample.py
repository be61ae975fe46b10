from __future__ import annotations

import datetime as dt
import decimal
import uuid
from enum import Enum
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.errors import SetupError
from tailrace.request.sample import sample_body
from tailrace.request.schema import REDACTED, Field, Request


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Point(msgspec.Struct):
    x: float
    y: Annotated[int, Field(ge=3)]


TYPES: list[Any] = [
    int,
    float,
    str,
    bool,
    dt.datetime,
    dt.date,
    dt.time,
    dt.timedelta,
    uuid.UUID,
    decimal.Decimal,
    bytes,
    Colour,
    Point,
    Literal["a", "b"],
    Literal[1, 2],
    int | None,
    str | None,
    list[int],
    list[Point],
    set[int],
    tuple[int, str],
    dict[str, int],
    Annotated[str, Field(min_length=9)],
    Annotated[str, Field(max_length=2)],
    Annotated[list[int], Field(min_length=2, max_length=3)],
    Annotated[list[int], Field(max_length=0)],
    Annotated[dt.datetime, Field(tz=True)],
    Annotated[dt.datetime, Field(tz=False)],
    Annotated[bytes, Field(min_length=4)],
    Annotated[int, Field(ge=3), Field(description="bounded, and described")],
    Annotated[str, REDACTED],
    Annotated[dict[str, int], Field(min_length=2)],
]


def made(annotation: Any) -> type[Request]:
    """Return a request type with one field."""
    return msgspec.defstruct("Made", [("value", annotation)], bases=(Request,), frozen=True)  # type: ignore[return-value]


@pytest.mark.parametrize("annotation", TYPES, ids=str)
@pytest.mark.parametrize("length", [1, 5])
def test_sample_is_valid_for_every_type(annotation: Any, length: int) -> None:
    """Every type that a field may have gets a value, whatever the seed."""
    for seed in range(40):
        body = sample_body(made(annotation), seed=seed, list_length=length)
        assert msgspec.json.decode(body, type=made(annotation)) is not None


@given(
    low=st.integers(-(10**12), 10**12),
    span=st.integers(0, 1000),
    seed=st.integers(0, 1000),
    open_low=st.booleans(),
    open_high=st.booleans(),
    which=st.sampled_from(["both", "low", "high"]),
)
def test_sample_int_meets_its_bounds(
    low: int, span: int, seed: int, open_low: bool, open_high: bool, which: str
) -> None:
    """Open and closed bounds, one or both, however narrow."""
    bounds: dict[str, int] = {}
    if which != "high":
        bounds["gt" if open_low else "ge"] = low - open_low
    if which != "low":
        bounds["lt" if open_high else "le"] = low + span + open_high
    sample_body(made(Annotated[int, Field(**bounds)]), seed=seed)


@given(
    low=st.floats(-1e9, 1e9),
    span=st.floats(1e-3, 1e6),
    seed=st.integers(0, 1000),
    open_low=st.booleans(),
    open_high=st.booleans(),
    which=st.sampled_from(["both", "low", "high"]),
)
def test_sample_float_meets_its_bounds(
    low: float, span: float, seed: int, open_low: bool, open_high: bool, which: str
) -> None:
    """Open and closed bounds, one or both, however narrow."""
    bounds: dict[str, float] = {}
    if which != "high":
        bounds["gt" if open_low else "ge"] = low
    if which != "low":
        bounds["lt" if open_high else "le"] = low + span
    sample_body(made(Annotated[float, Field(**bounds)]), seed=seed)


@given(step=st.integers(1, 50), low=st.integers(-100, 100), seed=st.integers(0, 100))
def test_sample_meets_multiple_of(step: int, low: int, seed: int) -> None:
    """A multiple that lies within the bounds is found."""
    sample_body(made(Annotated[int, Field(multiple_of=step, ge=low, le=low + step)]), seed=seed)


def test_sample_takes_the_example_of_its_class() -> None:
    """What cannot be made up (a pattern) is given by the class."""

    class Coded(Request):
        example: ClassVar[dict[str, Any]] = {"code": "AB-12"}
        code: Annotated[str, Field(pattern="^[A-Z]{2}-[0-9]{2}$")]

    assert msgspec.json.decode(sample_body(Coded, seed=3)) == {"code": "AB-12"}


def test_sample_of_a_pattern_without_example_is_told() -> None:
    """The error says which type and what to add."""
    with pytest.raises(SetupError, match="no sample request could be made up") as caught:
        sample_body(made(Annotated[str, Field(pattern="^[A-Z]{2}$")]))
    assert "example" in caught.value.next


def test_sample_that_the_type_itself_refuses_is_told() -> None:
    """A type whose own code raises on the sample is a mistake to be told, with what it raised."""

    class Brittle(Request):
        count: int

        def __post_init__(self) -> None:
            """Raise what msgspec passes on as it is."""
            raise ZeroDivisionError("by nothing")

    with pytest.raises(SetupError, match="ZeroDivisionError: by nothing") as caught:
        sample_body(Brittle)
    assert caught.value.where == "request Brittle"


def test_sample_field_named_example_is_a_field() -> None:
    """The name of the class attribute is not taken from requests that have a field of it."""

    class Named(Request):
        example: int

    assert msgspec.json.decode(sample_body(Named, seed=3)) == {"example": 3}
