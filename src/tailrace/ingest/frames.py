"""What passes between a worker and the ingester: events one way, the fate of each the other way. MessagePack.

A frame is its length, u32 little-endian, and then an array:

    events    [number, route, [event, …]]            route: "stream:payments", or "pipeline:fraud" for its requests
    fates     [number, fates, ""]                    a byte for each event, of `Fate`
    refusal   [number, null, why]                    none of them was counted
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

FRAME_BYTES_MAX: Final = 64 << 20
"""A longer one means a broken link."""
_LENGTH_BYTES: Final = 4


class EventFrame(msgspec.Struct, array_like=True, gc=False):
    """Events of one route, not decoded yet. number: by which they are answered."""

    number: int
    route: str
    events: msgspec.Raw


class FateFrame(msgspec.Struct, array_like=True, gc=False):
    """The answer: the fate of each event; None, and why, where none was counted."""

    number: int
    fates: bytes | None
    why: str = ""


_encode: Final = msgspec.msgpack.Encoder().encode


def stream_route(stream: str) -> str:
    """Return the route of a stream's own endpoint."""
    return f"stream:{stream}"


def pipeline_route(pipeline: str) -> str:
    """Return the route of a pipeline's requests."""
    return f"pipeline:{pipeline}"


def encode_events(number: int, route: str, events: Sequence[Any]) -> bytes:
    """Return a frame of events, of msgspec's structs."""
    return _framed(_encode((number, route, events)))


def encode_fates(number: int, fates: bytes | None, why: str = "") -> bytes:
    """Return a frame that answers."""
    return _framed(_encode(FateFrame(number, fates, why)))


def _framed(body: bytes) -> bytes:
    return len(body).to_bytes(_LENGTH_BYTES, "little") + body


class FrameReader:
    """Cuts what comes into frames, and decodes each. Raises ValueError for what cannot be a frame."""

    def __init__(self, frame: type[EventFrame] | type[FateFrame]) -> None:
        self._decode = msgspec.msgpack.Decoder(frame).decode
        self._inbox = bytearray()

    def read(self, data: bytes) -> Iterator[Any]:
        """Yield the frames that are whole."""
        self._inbox += data
        while len(self._inbox) >= _LENGTH_BYTES:
            end = _LENGTH_BYTES + int.from_bytes(self._inbox[:_LENGTH_BYTES], "little")
            if end > FRAME_BYTES_MAX:
                raise ValueError(f"a frame of {end} bytes")
            if len(self._inbox) < end:
                return
            body = bytes(self._inbox[_LENGTH_BYTES:end])
            del self._inbox[:end]
            yield self._decode(body)
