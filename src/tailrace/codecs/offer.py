"""The codecs that a pipeline speaks, chosen by what a caller says of its body and of the answer (RFC 9110 §12)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from tailrace.batch import JSON, Codec
from tailrace.codecs.inflating import Inflate, Inflating, inflate_of
from tailrace.codecs.json import JsonCodec
from tailrace.codecs.msgpack import CONTENT_TYPES as MSGPACK
from tailrace.codecs.msgpack import MsgpackCodec
from tailrace.errors import UnsupportedTypeError
from tailrace.request.schema import Request

_ON_REQUEST: Final = {
    b"application/x-protobuf": "run tailrace export proto, and keep its lock file beside the pipeline's",
    b"application/protobuf": "run tailrace export proto, and keep its lock file beside the pipeline's",
    b"application/vnd.apache.arrow.stream": "start the server with --arrow",
}
"""Types that a pipeline may be asked to speak, and how: one that does not would take such a body for broken JSON."""
ACCEPTED_MAX: Final = 32
"""Parts of an Accept that are read."""


BODY_BYTES_MAX: Final = 1 << 20


class Offer:
    """The codecs of one request type. usual: JSON, which a body is read as whose type is not known here.

    array_max: requests in one array. body_bytes_max: of a body that came compressed, once it is inflated. more: codecs
    beyond those that any pipeline has.
    """

    def __init__(
        self, request_type: type[Request], *, array_max: int, body_bytes_max: int = BODY_BYTES_MAX,
        more: Sequence[Codec] = (),
    ) -> None:  # fmt: skip
        self.usual = JsonCodec(request_type, array_max=array_max)
        packed = (MsgpackCodec(request_type, array_max=array_max, content_type=each) for each in MSGPACK)
        others = (*packed, *more)
        self._body_bytes_max = body_bytes_max
        self._found: dict[tuple[Codec, Codec, Inflate | None], Codec | None] = {}
        self._codecs: dict[bytes, Codec] = {JSON: self.usual, **{each.content_type: each for each in others}}

    def find(self, content_type: bytes, accept: bytes, coding: bytes = b"") -> Codec | None:
        """Return the codec of a caller, None for the usual one.

        content_type: of its body. accept: what it takes; where that names none of the codecs it gets what it sends.
        coding: how its body is compressed. Raises UnsupportedCodingError for one that is not known, and
        UnsupportedTypeError for a type that this pipeline could be asked to speak, and is not.
        """
        inflate = inflate_of(coding)
        reads = self._codecs.get(media := _media_type(content_type))
        if reads is None:
            if media in _ON_REQUEST:
                what = f"{media.decode()} is not spoken here"
                raise UnsupportedTypeError(what, where="Content-Type", next=f"send JSON; or {_ON_REQUEST[media]}")
            reads = self.usual
        writes = next((found for each in preferred(accept) if (found := self._codecs.get(each)) is not None), reads)
        spoken = reads, writes, inflate
        if spoken not in self._found:
            self._found[spoken] = self._join(*spoken)
        return self._found[spoken]

    def _join(self, reads: Codec, writes: Codec, inflate: Inflate | None) -> Codec | None:
        """Return a codec that reads as one does and writes as another, None for the usual one."""
        joined = reads if reads is writes else Mixed(reads, writes)
        if inflate is not None:
            return Inflating(joined, inflate, self._body_bytes_max)
        return None if joined is self.usual else joined


class Mixed:
    """Reads requests as one codec does, and writes answers as another."""

    def __init__(self, reads: Codec, writes: Codec) -> None:
        self.content_type = writes.content_type
        self.decode: Callable[[bytes], Any] = reads.decode
        self.request_type = reads.request_type
        self._writes = writes

    def encode(self, value: Any) -> bytes:
        """Return the bytes of one answer."""
        return self._writes.encode(value)

    def encode_each(self, values: Sequence[Any]) -> list[bytes]:
        """Return the bytes of each answer."""
        return self._writes.encode_each(values)


def preferred(accept: bytes) -> list[bytes]:
    """Return the media types that an Accept names, the one with the largest weight first, without those of weight 0."""
    weights: dict[bytes, float] = {}
    for part in accept.split(b",", ACCEPTED_MAX)[:ACCEPTED_MAX]:
        name, *parameters = part.split(b";")
        weight = next((each.strip()[2:] for each in parameters if each.strip().lower().startswith(b"q=")), b"1")
        try:
            weights[_media_type(name)] = float(weight)
        except ValueError:
            continue  # what cannot be read says nothing
    return sorted((name for name, weight in weights.items() if weight > 0), key=lambda name: -weights[name])


def _media_type(value: bytes) -> bytes:
    return value.partition(b";")[0].strip().lower()
