"""What identical requests have in common: the values of some of their fields, as bytes.

Two requests have the same key only where every one of these fields has the same value of the same type: 1 is not 1.0,
nor true; -0.0 is not 0.0; an element of a list has its place. A field that was left out has its default's.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Annotated, Any, Final, Literal, get_args, get_origin, get_type_hints

import msgspec

from tailrace.request.schema import Request

_EXACT: Final = frozenset({bool, int, float, str, bytes, dt.date, type(None)})
"""Types whose values MessagePack tells apart by itself; of a time it keeps the instant, and not its zone."""
_UNWRITABLE: Final = (OverflowError, TypeError, ValueError, RecursionError)
"""What encoding raises: for an int of 70 bits, or a text with half a surrogate."""


class RequestKey:
    """Makes keys. names: the fields of the request type that are compared."""

    def __init__(self, request_type: type[Request], names: Sequence[str]) -> None:
        hints = get_type_hints(request_type, include_extras=True)
        timed = [name for name in names if not _is_exact(hints[name])]
        self._values_of = tuple_getter(names)
        self._times_of = tuple_getter(timed) if timed else None
        self._encode = msgspec.msgpack.Encoder().encode
        self._encode_times = msgspec.json.Encoder().encode

    def of(self, scope: bytes, requests: Any) -> bytes | None:
        """Return the key of what a call asks for, a request or a list of them; None for what has no such bytes.

        scope: of the caller; callers of other scopes have other keys.
        """
        try:
            if type(requests) is list:
                return self._of_many(scope, requests)
            key = self._encode((scope, self._values_of(requests)))
            return key if self._times_of is None else key + self._encode_times(self._times_of(requests))
        except _UNWRITABLE:
            return None

    def _of_many(self, scope: bytes, requests: list[Any]) -> bytes:
        """Return the key of an array, which is that of no single request: it begins otherwise."""
        key = self._encode((scope, "array", list(map(self._values_of, requests))))
        return key if self._times_of is None else key + self._encode_times(list(map(self._times_of, requests)))


def tuple_getter(names: Sequence[str]) -> Callable[[Any], tuple[Any, ...]]:
    """Return what reads some attributes, always as a tuple."""
    if len(names) == 1:
        read = attrgetter(*names)
        return lambda request: (read(request),)
    return attrgetter(*names) if names else lambda request: ()


def _is_exact(annotation: Any) -> bool:
    """Say whether MessagePack tells all values of a type apart."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _is_exact(get_args(annotation)[0])
    if origin is Literal or annotation in _EXACT:
        return True
    parts = get_args(annotation)
    return bool(parts) and all(map(_is_exact, parts))
