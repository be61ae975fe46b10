"""How an error is answered in the protocol: an object with one member."""

from __future__ import annotations

from typing import Final

import msgspec

from tailrace.errors import ServingError

ROOT: Final = b"/v2"


class _Error(msgspec.Struct, frozen=True, gc=False):
    error: str


_encode: Final = msgspec.json.Encoder().encode


def is_oip(path: bytes) -> bool:
    """Say whether a path is the protocol's."""
    return path == ROOT or path.startswith(b"/v2/")


def error_text(error: ServingError) -> str:
    """Return what an error says, where, and what to do about it, in one line."""
    text = f"{error.where}: {error.what}" if error.where else error.what
    return f"{text}; {error.next}" if error.next else text


def error_body(error: ServingError) -> bytes:
    """Return the JSON body of an error."""
    return _encode(_Error(error_text(error)))
