"""A field of each kind, sent back as it came; the score is the logarithm of the amount."""

from datetime import datetime
from enum import Enum
from typing import Annotated, Literal

import msgspec

import tailrace as tr


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Terms(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    months: int
    rate: float = 0.0


class Everything(tr.Request):
    amount: float
    count: Annotated[int, tr.Field(ge=0)] = 1
    flag: bool = False
    label: str = ""
    time: datetime | None = None
    colour: Colour = Colour.RED
    mode: Literal["a", "b"] = "a"
    level: Literal[1, 2] = 1
    maybe: float | None = None
    maybe_count: int | None = None
    maybe_flag: bool | None = None
    raw: bytes = b""
    numbers: list[float] = msgspec.field(default_factory=list)
    words: list[str] = msgspec.field(default_factory=list)
    vector: Annotated[list[float], tr.Field(min_length=2, max_length=2)] | None = None
    terms: Terms | None = None
    table: dict[str, int] = msgspec.field(default_factory=dict)


class Echoed(tr.Response):
    score: float
    count: int
    flag: bool
    label: str
    time: datetime | None
    colour: Colour
    mode: Literal["a", "b"]
    level: Literal[1, 2]
    maybe: float | None
    maybe_count: int | None
    maybe_flag: bool | None
    raw: bytes
    numbers: list[float]
    words: list[str]
    vector: Annotated[list[float], tr.Field(min_length=2, max_length=2)] | None
    terms: Terms | None
    table: dict[str, int]


kinds = tr.Pipeline(
    name="kinds",
    request=Everything,
    response=Echoed,
    features=[Everything.amount],
    model=tr.Model("log"),
    budget=tr.Budget("50ms"),
)
