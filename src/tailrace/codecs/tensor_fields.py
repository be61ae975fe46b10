"""Fields of requests and responses as tensors: one tensor a field, one row a request.

    amount: float             FP64   [rows] or [rows, 1]
    items: list[int]          INT64  [rows, elements]; where rows have different lengths, BYTES [rows] with their JSON
    time: datetime            BYTES  [rows], as in JSON
    terms: Terms (a struct)   BYTES  [rows], its JSON

A number that may be None is FP64, and NaN where it is, as it is in the columns of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

import msgspec
from msgspec import inspect as shapes

from tailrace.codecs.duplicates import duplicate_key
from tailrace.codecs.tensors import FRACTIONS, TEXT, WHOLE
from tailrace.errors import InvalidTensorError
from tailrace.request.schema import vector_width

ANY: Final = -1
"""A dimension of any size, in metadata."""

BOOL, INT, FLOAT, BYTE, STRING, OBJECT = "bool", "int", "float", "bytes", "text", "object"
_DATATYPES: Final = {BOOL: "BOOL", INT: "INT64", FLOAT: "FP64", BYTE: TEXT, STRING: TEXT, OBJECT: TEXT}
_TAKEN: Final = {
    BOOL: frozenset({"BOOL"}), INT: WHOLE, FLOAT: FRACTIONS | WHOLE, BYTE: frozenset({TEXT}),
    STRING: frozenset({TEXT}), OBJECT: frozenset({TEXT}),
}  # fmt: skip
_KINDS: Final[tuple[tuple[Any, str], ...]] = (
    (shapes.BoolType, BOOL),
    (shapes.IntType, INT),
    (shapes.FloatType, FLOAT),
    (shapes.BytesType | shapes.ByteArrayType | shapes.MemoryViewType, BYTE),
    (
        shapes.StrType | shapes.DateTimeType | shapes.DateType | shapes.TimeType | shapes.TimeDeltaType
        | shapes.UUIDType | shapes.DecimalType,
        STRING,
    ),
)  # fmt: skip
_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder().decode


@dataclass(frozen=True, slots=True)
class TensorField:
    """One field as a tensor.

    name: as callers write it. attribute: of the struct. kind: of its values, or of its elements where it has `many`.
    datatype: as metadata tell it. width: its elements, where all have as many; else `ANY`. is_plain: values need no
    change to be a tensor's. required: it has no default. nullable: None is allowed. taken: the datatypes
    that it may come in.
    """

    name: str
    attribute: str
    kind: str
    datatype: str
    many: bool = False
    width: int = ANY
    is_plain: bool = True
    required: bool = True
    nullable: bool = False
    taken: frozenset[str] = frozenset()

    @property
    def shape(self) -> list[int]:
        """The shape that metadata tell."""
        return [ANY, self.width] if self.many else [ANY]

    def check(self, datatype: str, shape: Sequence[int]) -> None:
        """Raise InvalidTensorError for a tensor that this field cannot be."""
        rank = len(shape)
        if self.many and rank == 1 and datatype == TEXT:
            return  # the JSON of each list
        if datatype not in self.taken:
            raise InvalidTensorError(f"{datatype[:20]!r} is no {self.datatype}", next=f"send {self.datatype}")
        if not (rank == 2 if self.many else rank == 1 or (rank == 2 and shape[1] == 1)):
            wanted = "[rows, elements]" if self.many else "[rows]"
            raise InvalidTensorError(f"it has the shape {list(shape)}", next=f"send {wanted}")

    def values(self, elements: list[Any], datatype: str, shape: Sequence[int]) -> list[Any]:
        """Return the value of each row, for its validation. elements: all of them. Raises InvalidTensorError."""
        if datatype == TEXT:
            if self.many and len(shape) == 1:
                return list(map(_value_in, elements))
            elements = self._read_texts(elements)
        elif self.kind in _OF_NUMBERS and datatype in FRACTIONS:
            elements = list(map(_OF_NUMBERS[self.kind], elements))
        if not self.many:
            return elements
        rows, width = shape
        return [elements[begin : begin + width] for begin in range(0, rows * width, width)] if width else [[]] * rows

    def tensor(self, values: list[Any]) -> tuple[str, list[int], list[Any]]:
        """Return the datatype, the shape and the elements of the values of all rows."""
        if not self.many:
            return self.datatype, [len(values)], list(map(_json_of, values)) if self.kind == OBJECT else values
        lengths = {-1 if value is None else len(value) for value in values}
        if len(lengths) > 1 or -1 in lengths:
            return TEXT, [len(values)], list(map(_json_of, values))
        width = lengths.pop() if lengths else max(self.width, 0)
        return self.datatype, [len(values), width], list(chain.from_iterable(values))

    def _read_texts(self, elements: list[Any]) -> list[Any]:
        """Return the texts of a tensor, which came as JSON or as bytes; of objects, what they hold."""
        if self.kind == OBJECT:
            return list(map(_value_in, elements))
        if self.kind == STRING and elements and type(elements[0]) is bytes:
            return list(map(_text_in, elements))
        return elements


def tensor_fields(kind: type) -> dict[str, TensorField]:
    """Return the fields of a request or a response, by the names of their tensors."""
    info = shapes.type_info(kind)
    assert isinstance(info, shapes.StructType)
    annotations = {field.name: field.type for field in msgspec.structs.fields(kind)}
    return {each.encode_name: _field_of(each, annotations[each.name]) for each in info.fields}


def _field_of(field: shapes.Field, annotation: Any) -> TensorField:
    info, nullable = _unwrapped(field.type)
    many = isinstance(info, shapes.CollectionType)
    if isinstance(info, shapes.CollectionType):
        item, null_inside = _unwrapped(info.item_type)
        kind, is_plain, has_null = _kind_of(item)
        many = kind != OBJECT and not null_inside and not has_null
        if not many:
            kind = OBJECT
    else:
        kind, is_plain, has_null = _kind_of(info)
        nullable |= has_null
    datatype = "FP64" if nullable and not many and kind in (BOOL, INT) else _DATATYPES[kind]
    width = vector_width(annotation) or ANY
    taken = _TAKEN[kind] | FRACTIONS if nullable and not many and kind in (BOOL, INT) else _TAKEN[kind]
    return TensorField(
        field.encode_name, field.name, kind, datatype, many, width, is_plain, field.required, nullable, taken
    )  # fmt: skip


def _kind_of(info: shapes.Type) -> tuple[str, bool, bool]:
    """Return the kind of one value, whether it is plain, and whether None is among what may be."""
    for kinds, name in _KINDS:
        if isinstance(info, kinds):
            return name, name != STRING or isinstance(info, shapes.StrType), False
    if isinstance(info, shapes.LiteralType | shapes.EnumType):
        listed = info.values if isinstance(info, shapes.LiteralType) else [each.value for each in info.cls]
        kinds_of_values = {type(value) for value in listed} - {type(None)}
        is_plain = isinstance(info, shapes.LiteralType)
        for kind, name in ((str, STRING), (int, INT)):
            if kinds_of_values == {kind}:
                return name, is_plain, None in listed
    return OBJECT, False, False


def _unwrapped(info: shapes.Type) -> tuple[shapes.Type, bool]:
    """Return a type without what is said about it and without None, and whether None was allowed."""
    nullable = False
    while isinstance(info, shapes.Metadata | shapes.UnionType):
        if isinstance(info, shapes.Metadata):
            info = info.type
            continue
        options = [each for each in info.types if not isinstance(each, shapes.NoneType)]
        if len(options) != 1:
            return shapes.AnyType(), info.includes_none
        info, nullable = options[0], True
    return info, nullable


def _json_of(value: Any) -> str:
    return _encode(value).decode()


def _value_in(text: bytes | str | None) -> Any:
    """Return what a text holds as JSON. Raises InvalidTensorError."""
    if text is None:
        return None
    content = text.encode() if isinstance(text, str) else text
    if (fault := duplicate_key(content)) is not None:
        raise InvalidTensorError(f"a text is no JSON: {fault.what}", where=fault.where)
    try:
        return _decode(content)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidTensorError(f"a text is no JSON: {error}") from None


def _text_in(content: bytes | None) -> str | None:
    try:
        return None if content is None else content.decode()
    except UnicodeDecodeError as error:
        raise InvalidTensorError(f"a text is not UTF-8: {error.reason}") from None


def _truth_in(value: float | None) -> Any:
    """Return what a number says where a bool may be None; any other number than 0 and 1 as it is, to be refused."""
    return bool(value) if value in (0, 1) else value


def _whole_in(value: float | None) -> Any:
    """Return a number without a fraction where an int may be None; one with a fraction as it is, to be refused."""
    return int(value) if type(value) is float and value.is_integer() else value


_OF_NUMBERS: Final = {BOOL: _truth_in, INT: _whole_in}
"""What makes a value of a number, where that stands for another kind that may be None."""
