"""Bodies that come compressed (RFC 9110 §8.4): inflated up to the limit that holds for all, then read as any other."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any, Final

from tailrace.batch import Codec
from tailrace.errors import BodyTooLargeError, MalformedBodyError, ServingError, UnsupportedCodingError

GZIP_BITS: Final = 31
"""zlib's name of a gzip member with its header (RFC 1952); the largest window."""
ZSTD_WINDOW_LOG_MAX: Final = 23
"""8 MiB, which a frame sent over HTTP may ask for (RFC 9659 §3); one that asks for more is refused unread."""

Inflate = Callable[[bytes, int], bytes | ServingError]
"""Returns what a body holds, of at most so many bytes, or why it is none, or holds too much."""


class Inflating:
    """Reads requests that come compressed, as a codec reads what is in them; writes answers as that does.

    inflate: of their coding. body_bytes_max: of a body once it is inflated; no more is ever made of it. decode: see
    `Codec`.
    """

    def __init__(self, inner: Codec, inflate: Inflate, body_bytes_max: int) -> None:
        self.content_type = inner.content_type
        self.request_type = inner.request_type
        self.decode: Callable[[bytes], Any] = self._decode
        self._inner = inner
        self._inflate = inflate
        self._body_bytes_max = body_bytes_max

    def encode(self, value: Any) -> bytes:
        """Return the bytes of one answer."""
        return self._inner.encode(value)

    def encode_each(self, values: Sequence[Any]) -> list[bytes]:
        """Return the bytes of each answer."""
        return self._inner.encode_each(values)

    def _decode(self, body: bytes) -> Any:
        inflated = self._inflate(body, self._body_bytes_max)
        return inflated if isinstance(inflated, ServingError) else self._inner.decode(inflated)


def inflate(body: bytes, bytes_max: int) -> bytes | ServingError:
    """Return what a gzip member holds, or why it is none, or holds too much."""
    reader = zlib.decompressobj(GZIP_BITS)
    try:
        content = reader.decompress(body, bytes_max + 1)
    except zlib.error as error:
        return MalformedBodyError(f"the body is no gzip: {error}", where="Content-Encoding")
    return _whole(reader, content, bytes_max, "gzip")


class InflateZstd:
    """Returns what a zstd frame (RFC 8878) holds; see `Inflate`. library: Python's own, or its backport."""

    def __init__(self, library: Any) -> None:
        self._reader = library.ZstdDecompressor
        self._error = library.ZstdError
        self._options = {library.DecompressionParameter.window_log_max: ZSTD_WINDOW_LOG_MAX}

    def __call__(self, body: bytes, bytes_max: int) -> bytes | ServingError:
        """Return what a body holds, or why it is none, or holds too much."""
        reader = self._reader(options=self._options)
        try:
            content: bytes = reader.decompress(body, bytes_max + 1)
        except self._error as error:
            return MalformedBodyError(f"the body is no zstd: {error}", where="Content-Encoding")
        return _whole(reader, content, bytes_max, "zstd")


def _whole(reader: Any, content: bytes, bytes_max: int, coding: str) -> bytes | ServingError:
    """Return what was read, or why it is not all that the body holds."""
    if len(content) > bytes_max:
        return BodyTooLargeError(f"the body is over {bytes_max} bytes once it is inflated", next="send fewer a call")
    if not reader.eof:
        return MalformedBodyError(f"the {coding} of the body is cut short", where="Content-Encoding")
    if reader.unused_data:
        return MalformedBodyError(f"something follows the {coding} of the body", where="Content-Encoding")
    return content


def _codings() -> Mapping[bytes, Inflate]:
    """Return what inflates each coding; zstd where Python has it (3.14), or the extra `zstd` is there."""
    found: dict[bytes, Inflate] = {b"gzip": inflate, b"x-gzip": inflate}
    for name in ("backports.zstd", "compression.zstd"):
        with suppress(ImportError):
            found[b"zstd"] = InflateZstd(import_module(name))
    return found


CODINGS: Final = _codings()
"""What inflates a body, by the name of its coding."""
_PLAIN: Final = (b"", b"identity")
_TAKEN: Final = " or ".join(coding.decode() for coding in CODINGS if not coding.startswith(b"x-"))


def inflate_of(coding: bytes) -> Inflate | None:
    """Return what inflates a body of a coding, None where it comes as it is. Raises UnsupportedCodingError."""
    coding = coding.strip().lower()
    inflate = CODINGS.get(coding)
    if inflate is None and coding not in _PLAIN:
        what = f"the body comes in {coding.decode('latin-1')!r}"
        raise UnsupportedCodingError(what, where="Content-Encoding", next=f"send it as it is, or in {_TAKEN}")
    return inflate
