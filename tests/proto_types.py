"""Types with a field of every form, and their messages compiled by protoc, as the other side of the codec."""

from __future__ import annotations

import datetime as dt
import importlib
import sys
import uuid
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Annotated, Literal

import msgspec
import pytest

from tailrace.codecs.proto_form import message_forms
from tailrace.codecs.proto_lock import Lock, locked
from tailrace.codecs.proto_text import proto_text
from tailrace.request.schema import Field, Request
from tailrace.response.schema import Response


class Kind(Enum):
    ONE = "one"
    TWO = "two-fold"


class Line(msgspec.Struct, forbid_unknown_fields=True):
    """Of an order."""

    price: float
    count: int = 1


class Order(Request):
    """A field of every form."""

    name: str
    amount: Annotated[float, Field(gt=0, le=1000)]
    weight: float
    height: float | None
    count: int = 3
    vip: bool = False
    kind: Kind = Kind.ONE
    card: Literal["debit", "credit", None] = None
    time: dt.datetime | None = None
    day: dt.date | None = None
    id: uuid.UUID | None = None
    secret: bytes = b""
    first: Line | None = None
    lines: list[Line] = msgspec.field(default_factory=list)
    tags: list[str] = msgspec.field(default_factory=list)
    marks: list[int] = msgspec.field(default_factory=list)
    kinds: list[Kind] = msgspec.field(default_factory=list)
    vector: Annotated[list[float], Field(min_length=3, max_length=3)] = msgspec.field(default_factory=lambda: [0.0] * 3)
    shares: dict[str, float] = msgspec.field(default_factory=dict)
    parts: dict[str, Line] = msgspec.field(default_factory=dict)


class Decision(Response):
    decision: Literal["allow", "block"]
    score: float
    reasons: list[str]
    time: dt.datetime | None = None
    first: Line | None = None
    shares: dict[str, float] = msgspec.field(default_factory=dict)
    vector: list[float] = msgspec.field(default_factory=list)
    marks: list[int] = msgspec.field(default_factory=list)


def numbers_of(*types: type) -> Lock:
    """Return new numbers for types."""
    return locked(message_forms(*types), None)


def compiled(folder: Path, request: type, response: type, name: str = "shop") -> ModuleType:
    """Return the messages of two types, as protoc makes them of the file that is exported."""
    protoc = pytest.importorskip("grpc_tools.protoc")
    forms = message_forms(request, response)
    text = proto_text(name, forms, locked(forms, None), (request.__name__, response.__name__))
    (folder / f"{name}.proto").write_text(text)
    known = str(Path(protoc.__file__).parent / "_proto")
    assert protoc.main(["protoc", f"-I{folder}", f"-I{known}", f"--python_out={folder}", f"{name}.proto"]) == 0
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(f"{name}_pb2")
    finally:
        sys.path.remove(str(folder))
