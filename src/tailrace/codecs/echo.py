"""A body's echo: the body decoded once more, as little as possible, and encoded, in which no key comes twice.

A duplicate key is lost on the way, and its quotes with it: a body that has as many quotes as its echo has no key twice.
Both ways are msgspec's, so that this costs about what decoding the request did, where Python's `json` with a hook for
each object costs five times that. It needs nothing of the decoded request, which the user's own code may have changed.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import inspect as shape

from tailrace.codecs.duplicates import duplicate_key
from tailrace.codecs.quotes import quotes_around_texts
from tailrace.errors import MalformedBodyError
from tailrace.request.schema import Request

MEMBER_LENGTH_MIN: Final = 5
"""Bytes of the shortest member of an object, with its comma: `"":0,`."""

_encode = msgspec.json.Encoder().encode

_KEYLESS = (
    shape.NoneType | shape.BoolType | shape.IntType | shape.FloatType | shape.DecimalType
    | shape.StrType | shape.BytesType | shape.ByteArrayType | shape.MemoryViewType | shape.UUIDType
    | shape.DateTimeType | shape.DateType | shape.TimeType | shape.TimeDeltaType
    | shape.EnumType | shape.LiteralType
)  # fmt: skip


class Echo:
    """Refuses bodies in which a key comes twice; asked about those that counting has not cleared (see `quotes`)."""

    def __init__(self, request_type: type[Request]) -> None:
        echoed = _EchoType()
        one = echoed.of(shape.type_info(request_type))
        many: Any = list[one]  # type: ignore[valid-type]
        self._decode = msgspec.json.Decoder(one if one is Any else one | many).decode
        self._verbatim = echoed.verbatim

    def duplicate_key(self, body: bytes) -> MalformedBodyError | None:
        """Return the refusal of a body in which an object has a key twice, with the path of the key; else None.

        The body is one that the request type has been decoded from.
        """
        return None if self._clears(body) else duplicate_key(body)

    def _clears(self, body: bytes) -> bool:
        """Say whether the echo shows that no key comes twice. False says nothing."""
        try:
            echo = _encode(self._decode(body))
        except Exception:  # of parts that the request type passes over: a number out of range, what is not UTF-8
            return False
        # What is verbatim lacks only whitespace and what escapes in keys took, beside the members that were lost.
        if self._verbatim and 0 <= len(body) - len(echo) < MEMBER_LENGTH_MIN:
            return True
        if body.find(b"\\") < 0:  # then its echo has none, for what needs escapes could not be in the body
            return body.count(b'"') == echo.count(b'"')
        return quotes_around_texts(body) == quotes_around_texts(echo)


class _EchoType:
    """Makes the type that an echo is decoded into. Its fields are absent from the echo where the body leaves them out.

    A value in which no object can be is kept as it is (`Raw`), one in which objects may be is decoded: into structs
    of the same keys where these are known, else into dicts. verbatim: every value is kept, so that no number or text
    is written in another, perhaps longer way.
    """

    def __init__(self) -> None:
        self.verbatim = True

    def of(self, info: shape.Type, within: tuple[Any, ...] = ()) -> Any:  # noqa: PLR0911 - one case a type
        """Return the type of the echo of a type. within: the structs around it; one within itself is not followed."""
        if is_keyless(info):
            return msgspec.Raw
        match info:
            case shape.Metadata():
                return self.of(info.type, within)
            case shape.StructType(array_like=False, forbid_unknown_fields=True) if info.cls not in within:
                return self._struct_of(info, (*within, info.cls))
            case shape.CollectionType():
                return list[self.of(info.item_type, within)]  # type: ignore[misc]
            case shape.DictType():
                return dict[str, self.of(info.value_type, within)]  # type: ignore[misc]
            case shape.UnionType(types=(other, shape.NoneType()) | (shape.NoneType(), other)):
                return self.of(other, within) | None
        self.verbatim = False
        return Any

    def _struct_of(self, info: shape.StructType, within: tuple[Any, ...]) -> Any:
        """Return a struct of the same keys, each of which may be absent; the tag of a tagged one is a key as others."""
        types = {field.encode_name: self.of(field.type, within) for field in info.fields}
        if info.tag_field is not None:
            types[info.tag_field] = msgspec.Raw
        return msgspec.defstruct(
            "Echo",
            [
                (f"f{i}", each, msgspec.field(name=key, default=msgspec.UNSET))
                for i, (key, each) in enumerate(types.items())
            ],
            gc=False,
        )


def is_keyless(info: shape.Type) -> bool:
    """Say whether no JSON object, and so no key, can be in a value of this type."""
    match info:
        case shape.Metadata():
            return is_keyless(info.type)
        case shape.CollectionType():
            return is_keyless(info.item_type)
        case shape.TupleType():
            return all(map(is_keyless, info.item_types))
        case shape.UnionType():
            return all(map(is_keyless, info.types))
    return isinstance(info, _KEYLESS)
