"""What identical requests have in common: the values of some of their fields, as bytes.

Two requests have the same key only where every one of these fields has the same value of the same type: 1 is not 1.0,
nor true; -0.0 is not 0.0; an element of a list has its place. A field that was left out has its default's.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from operator import attrgetter
from typing import Annotated, Any, Final, Literal, get_args, get_origin, get_type_hints

import msgspec

from tailrace.request.schema import Request

_EXACT: Final = frozenset({bool, int, float, str, bytes, dt.date, type(None)})
"""Types whose values MessagePack tells apart by itself; of a time it keeps the instant, and not its zone."""


class RequestKey:
    """Makes keys. names: the fields of the request type that are compared."""

    def __init__(self, request_type: type[Request], names: Sequence[str]) -> None:
        hints = get_type_hints(request_type, include_extras=True)
        timed = [name for name in names if not _is_exact(hints[name])]
        self._values_of = _tuple_getter(names)
        self._times_of = _tuple_getter(timed) if timed else None
        self._encode = msgspec.msgpack.Encoder().encode
        self._encode_times = msgspec.json.Encoder().encode

    def of(self, scope: bytes, requests: Any) -> bytes | None:
        """Return the key of what a call asks for, a request or a list of them; None for what has no such bytes.

        scope: of the caller; callers of other scopes have other keys.
        """
        many = type(requests) is list
        read, times_of = self._values_of, self._times_of
        try:
            values = self._encode((scope, list(map(read, requests)) if many else read(requests)))
            if times_of is not None:
                values += self._encode_times(list(map(times_of, requests)) if many else times_of(requests))
        except (
            OverflowError,
            TypeError,
            ValueError,
            RecursionError,
        ):  # an int of 70 bits, a text with half a surrogate
            return None
        return (b"[" if many else b"{") + values


def _tuple_getter(names: Sequence[str]) -> Any:
    """Return what reads some attributes, always as a tuple."""
    if len(names) > 1:
        return attrgetter(*names)
    read = attrgetter(names[0])
    return lambda request: (read(request),)


def _is_exact(annotation: Any) -> bool:
    """Say whether MessagePack tells all values of a type apart."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _is_exact(get_args(annotation)[0])
    if origin is Literal or annotation in _EXACT:
        return True
    parts = get_args(annotation)
    return bool(parts) and all(map(_is_exact, parts))
