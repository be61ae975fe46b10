"""Bodies that come compressed (RFC 9110 §8.4): inflated up to the limit that holds for all, then read as any other."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any, Final

from tailrace.batch import Codec
from tailrace.errors import BodyTooLargeError, MalformedBodyError, ServingError

GZIP_BITS: Final = 31
"""zlib's name of a gzip member with its header (RFC 1952); the largest window."""


class Inflating:
    """Reads requests that come in gzip, as a codec reads what is in it; writes answers as that does.

    body_bytes_max: of a body once it is inflated; no more is ever made of it. decode: see `Codec`.
    """

    def __init__(self, inner: Codec, body_bytes_max: int) -> None:
        self.content_type = inner.content_type
        self.request_type = inner.request_type
        self.decode: Callable[[bytes], Any] = self._decode
        self._inner = inner
        self._body_bytes_max = body_bytes_max

    def encode(self, value: Any) -> bytes:
        """Return the bytes of one answer."""
        return self._inner.encode(value)

    def encode_each(self, values: Sequence[Any]) -> list[bytes]:
        """Return the bytes of each answer."""
        return self._inner.encode_each(values)

    def _decode(self, body: bytes) -> Any:
        inflated = inflate(body, self._body_bytes_max)
        return inflated if isinstance(inflated, ServingError) else self._inner.decode(inflated)


def inflate(body: bytes, bytes_max: int) -> bytes | ServingError:
    """Return what a gzip member holds, or why it is none, or holds too much."""
    reader = zlib.decompressobj(GZIP_BITS)
    try:
        content = reader.decompress(body, bytes_max + 1)
    except zlib.error as error:
        return MalformedBodyError(f"the body is no gzip: {error}", where="Content-Encoding")
    if len(content) > bytes_max:
        return BodyTooLargeError(f"the body is over {bytes_max} bytes once it is inflated", next="send fewer a call")
    if not reader.eof:
        return MalformedBodyError("the gzip of the body is cut short", where="Content-Encoding")
    if reader.unused_data:
        return MalformedBodyError("something follows the gzip of the body", where="Content-Encoding")
    return content
