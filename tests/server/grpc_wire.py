"""A client of gRPC that is no more than its socket: it sends whatever frames of HTTP/2 it likes (RFC 9113 §4)."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Sequence
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, END_HEADERS, ACK = 1, 4, 1
PATIENCE_S: Final = 20.0


def frame(kind: int, flags: int, stream: int, payload: bytes = b"", length: int | None = None) -> bytes:
    """Return a frame. length: what it says of its length, where that is not so."""
    size = len(payload) if length is None else length
    return struct.pack(">I", size)[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def setting(number: int, value: int) -> bytes:
    """Return one setting."""
    return struct.pack(">HI", number, value)


def literal(name: bytes, value: bytes) -> bytes:
    """Return a header without Huffman coding, which no table keeps (RFC 7541 §6.2.2)."""
    return b"\0" + _string(name) + _string(value)


def _string(text: bytes) -> bytes:
    size = len(text)
    if size < 127:
        return bytes([size]) + text
    rest, more = size - 127, b"\x7f"
    while rest > 127:
        more, rest = more + bytes([rest % 128 + 128]), rest // 128
    return more + bytes([rest]) + text


def head(path: str, *more: tuple[bytes, bytes]) -> bytes:
    """Return the head of a call."""
    fields = [(b":path", path.encode()), (b":authority", b"a"), (b"te", b"trailers"),
              (b"content-type", b"application/grpc"), *more]  # fmt: skip
    return b"\x83\x86" + b"".join(literal(name, value) for name, value in fields)


def message(body: bytes, *, flag: int = 0, length: int | None = None) -> bytes:
    """Return a message behind its prefix. length: what it says of its length, where that is not so."""
    return bytes([flag]) + struct.pack(">I", len(body) if length is None else length) + body


class WireClient:
    """A socket with the preface sent."""

    def __init__(self, port: int, *settings: bytes, preface: bytes = PREFACE) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), PATIENCE_S)
        self._buffer = b""
        self.sock.sendall(preface)
        if preface == PREFACE:
            self.sock.sendall(frame(SETTINGS, 0, 0, b"".join(settings)))
            self.frames_to([SETTINGS])  # a server waits no longer for its being heard than for a message

    def __enter__(self) -> WireClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, *frames: bytes) -> None:
        """Send frames; a server that has closed takes no more."""
        with contextlib.suppress(ConnectionError):
            self.sock.sendall(b"".join(frames))

    def begin(self, path: str, stream: int = 1, *more: tuple[bytes, bytes]) -> None:
        """Begin a call, whose message is yet to come."""
        self.send(frame(HEADERS, END_HEADERS, stream, head(path, *more)))

    def frames_to(self, kinds: Sequence[int], stream: int | None = None) -> list[tuple[int, int, int, bytes]]:
        """Return the frames up to the first of these kinds, of one stream or of any; to the end, if there is none.

        What the server asks of the connection is answered.
        """
        found = []
        while (got := self._next()) is not None:
            found.append(got)
            kind, flags, number, payload = got
            if kind in (SETTINGS, PING) and not flags & ACK:
                self.send(frame(kind, ACK, 0, payload if kind == PING else b""))
            if kind in kinds and (stream is None or number == stream):
                break
        return found

    def is_closed(self) -> bool:
        """Say whether the server ends the connection."""
        while self._next() is not None:
            pass
        return True

    def _next(self) -> tuple[int, int, int, bytes] | None:
        """Return the next frame; None where the server has closed. Raises TimeoutError where nothing comes."""
        while len(self._buffer) < 9 or len(self._buffer) < 9 + int.from_bytes(self._buffer[:3], "big"):
            try:
                data = self.sock.recv(65_536)
            except ConnectionError:
                return None
            if not data:
                return None
            self._buffer += data
        size = int.from_bytes(self._buffer[:3], "big")
        got, self._buffer = self._buffer[: 9 + size], self._buffer[9 + size :]
        return got[3], got[4], int.from_bytes(got[5:9], "big") & 0x7FFF_FFFF, got[9:]
