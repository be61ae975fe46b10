"""The MessagePack codec: bodies to validated requests or a refusal, answers to bodies. See https://msgpack.org.

What MessagePack can say and JSON cannot is held to what JSON can: a number is finite, and a map has each key once. Both
are seen from the bytes and from how many defaults were taken; what that does not clear is walked through.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import islice, repeat, starmap
from math import isfinite
from operator import attrgetter
from typing import Annotated, Any, Final, cast

import msgspec
from msgspec import NODEFAULT
from msgspec import inspect as shape

from tailrace.codecs.decoder import refusal_of
from tailrace.codecs.duplicates import PATH_MAX
from tailrace.codecs.msgpack_keys import find_key_twice, head_of_map, keys_of_map
from tailrace.errors import InvalidRequestError, MalformedBodyError, ServingError
from tailrace.request.schema import Field, Request, bounded_type

CONTENT_TYPES: Final = (b"application/msgpack", b"application/vnd.msgpack", b"application/x-msgpack")
"""The second is registered at IANA, the first is what most clients say; each is answered with its own."""

_NUMBERLESS = (
    shape.NoneType | shape.BoolType | shape.IntType | shape.StrType | shape.BytesType | shape.UUIDType
    | shape.DateTimeType | shape.DateType | shape.TimeType | shape.TimeDeltaType | shape.LiteralType
)  # fmt: skip
"""Types in which there is no float."""
_BOUNDLESS: Final = re.compile(rb"\xcb[\x7f\xff][\xf0-\xff]|\xca[\x7f\xff][\x80-\xff]")
"""How a float64 and a float32 begin whose exponent is all ones."""

_split = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode


class MsgpackCodec:
    """Reads the requests of one type and writes their answers. array_max: requests in one array.

    request_type: of the requests that come out, the declared one or below it. decode: see `Codec`.
    """

    def __init__(self, request_type: type[Request], *, array_max: int, content_type: bytes = CONTENT_TYPES[0]) -> None:
        keys = KeyCount(request_type)
        self.content_type = content_type
        self.request_type = bounded = bounded_type(request_type, keys.factories)
        many = Annotated[list[bounded], Field(max_length=array_max)]  # type: ignore[valid-type]
        self._read = msgspec.msgpack.Decoder(bounded | many).decode
        self._fields, self._left = keys.fields, keys.left
        self.encode = msgspec.msgpack.Encoder().encode
        self._finite = Finite(request_type).of
        self._whole = head_of_map(keys.fields)
        counted = self._decode_counted if keys.factories else self._decode_fixed
        self.decode: Callable[[bytes], Any] = counted if keys.useful else self._decode_walked

    def encode_each(self, values: Sequence[Any]) -> list[bytes]:
        """Return the bytes of each answer."""
        return list(map(self.encode, values))

    def _decode_fixed(self, body: bytes) -> Any:
        """See `decode`; of a type whose bodies all have as many keys."""
        if not body.startswith(self._whole):
            return self._decode_counted(body)
        try:
            request = self._read(body)
        except Exception as error:
            return refusal_of(error)
        return self._finite(request) if _may_be_boundless(body) else request

    def _decode_counted(self, body: bytes) -> Any:
        """See `decode`; of a type whose requests say how many keys their bodies have."""
        left = self._left()
        try:
            requests = self._read(body)
        except Exception as error:
            return refusal_of(error)
        if type(requests) is list:
            keys, fields = sum(keys_of_map(bytes(each)) for each in _split(body)), len(requests) * self._fields
        else:
            keys, fields = keys_of_map(body), self._fields
        if keys != fields - (left - self._left()) and (refusal := _refusal_of_key(body)) is not None:
            return refusal
        return self._finite(requests) if _may_be_boundless(body) else requests

    def _decode_walked(self, body: bytes) -> Any:
        """See `decode`; of a type with parts that may hold any number of keys."""
        try:
            requests = self._read(body)
        except Exception as error:
            return refusal_of(error)
        if (refusal := _refusal_of_key(body)) is not None:
            return refusal
        return self._finite(requests) if _may_be_boundless(body) else requests


class KeyCount:
    """Counts the keys that a body left out, by the defaults that were taken in their place.

    fields: of a request. useful: whether every key of a body is a field of the request itself, or an unknown one that
    is refused. factories: by field, what the type that is decoded into takes its default from. left: falls by one for
    each that is taken.
    """

    def __init__(self, request_type: type[Request]) -> None:
        info = cast(shape.StructType, shape.type_info(request_type))
        config = request_type.__struct_config__
        is_flat = not any(_has_keys(field.type) for field in info.fields)
        self.fields = len(info.fields)
        self.useful = is_flat and info.forbid_unknown_fields and info.tag is None and not config.omit_defaults
        endless = repeat((), 2**62)
        self.left: Callable[[], int] = endless.__length_hint__
        self.factories: dict[str, Callable[[], Any]] = {}
        for field in info.fields if self.useful else ():
            if not field.required:
                make = field.default_factory if field.default is NODEFAULT else repeat(field.default).__next__
                self.factories[field.name] = starmap(make, islice(endless, 0, None)).__next__


def _refusal_of_key(body: bytes) -> ServingError | None:
    """Return the refusal of a body with a key twice; None for any other."""
    key = find_key_twice(body)
    return None if key is None else MalformedBodyError(f"the key {key!r} is there twice", where="$")


def _without_null(info: shape.Type) -> shape.Type:
    """Return a type without its bounds, and without None where that is all it may be beside."""
    while isinstance(info, shape.Metadata):
        info = info.type
    if isinstance(info, shape.UnionType):
        others = [each for each in info.types if not isinstance(each, shape.NoneType)]
        return _without_null(others[0]) if len(others) == 1 else info
    return info


def _has_keys(info: shape.Type) -> bool:
    """Say whether a value may have keys of its own."""
    match info:
        case shape.Metadata() | shape.CollectionType():
            return _has_keys(info.type if isinstance(info, shape.Metadata) else info.item_type)
        case shape.UnionType():
            return any(map(_has_keys, info.types))
        case shape.TupleType():
            return any(map(_has_keys, info.item_types))
    return isinstance(
        info, shape.StructType | shape.DictType | shape.TypedDictType | shape.DataclassType | shape.AnyType
        | shape.RawType | shape.CustomType | shape.NamedTupleType
    )  # fmt: skip


def _may_be_boundless(body: bytes) -> bool:
    """Say whether a float64 or a float32 may stand in a body that is infinite or no number. 0.1 to 0.4 µs.

    Its first bytes are then the type's and 7f or ff; a byte alone is found several times as fast as two. They come by
    chance too, within one number in ten thousand; with the bits behind them, a sixteenth as often.
    """
    may_be = (b"\x7f" in body and (b"\xcb\x7f" in body or b"\xca\x7f" in body)) or (
        b"\xff" in body and (b"\xcb\xff" in body or b"\xca\xff" in body)
    )
    return may_be and _BOUNDLESS.search(body) is not None


class Finite:
    """Looks at the numbers of requests of one type, where a body has bytes that may be one without an end.

    In an array of a thousand requests some have them by chance; to walk through it takes 7 ms, to sum it up 1.
    """

    def __init__(self, request_type: type[Request]) -> None:
        info = cast(shape.StructType, shape.type_info(request_type))
        kinds = {field.name: _without_null(field.type) for field in info.fields}
        names = [name for name, kind in kinds.items() if isinstance(kind, shape.FloatType)]
        is_summed = names and all(isinstance(kind, _NUMBERLESS | shape.FloatType) for kind in kinds.values())
        self._read = attrgetter(*names * (1 if names[1:] else 2)) if is_summed else None  # of one, a tuple too

    def of(self, requests: Any) -> Any:
        """Return the requests, or the refusal of the first number in them that is not finite."""
        if self._read is not None:
            rows = map(self._read, requests if type(requests) is list else (requests,))
            if isfinite(sum(sum(filter(None, row)) for row in rows)):
                return requests
        try:
            path = path_of_boundless(msgspec.to_builtins(requests, enc_hook=_nothing_of), "$")
        except Exception as error:  # of what is too deep to be walked through
            return refusal_of(error)
        return requests if path is None else InvalidRequestError("Expected a finite number", where=path)


def _nothing_of(value: Any) -> None:
    """Stand in for what has no plain form, an extension: there is no number in it."""


def path_of_boundless(value: Any, path: str) -> str | None:
    """Return the path of the first number that is not finite, cut to `PATH_MAX`. It goes as deep as a body does."""
    steps: list[str] = []
    waiting: list[Iterator[tuple[str, Any]]] = [iter([(path, value)])]
    while waiting:
        found = next(waiting[-1], None)
        if found is None:
            waiting.pop()
            del steps[-1:]
            continue
        step, each = found
        if isinstance(each, float) and not isfinite(each):
            return "".join((*steps, step))[:PATH_MAX]
        if isinstance(each, dict | list):
            steps.append(step)
            waiting.append(_parts_of(each))
    return None


def _parts_of(value: dict[Any, Any] | list[Any]) -> Iterator[tuple[str, Any]]:
    """Give the parts of a value, each with the step to it."""
    if isinstance(value, dict):
        return ((f".{key}", each) for key, each in value.items())
    return ((f"[{place}]", each) for place, each in enumerate(value))
