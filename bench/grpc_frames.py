"""A caller of gRPC that is a socket: it sends frames of HTTP/2 made beforehand, so that little of a core is its own."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Sequence
from typing import Final, NamedTuple

from machine import BenchError

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_WINDOW: Final = 65_535
_CREDIT: Final = 1 << 24
_USER_AGENT: Final = b"grpc-python/1.85.3 grpc-c/53.0.0 (linux; chttp2)"


class Round(NamedTuple):
    """What came of a round: calls that were answered with a message, all calls, and the seconds."""

    answered: int
    calls: int
    seconds: float


class FrameCaller:
    """One connection that keeps some calls in flight. bodies: of the calls, in turn."""

    def __init__(self, port: int, path: str, bodies: Sequence[bytes]) -> None:
        self._sock = socket.create_connection(("127.0.0.1", port), 10)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        settings = struct.pack(">HI", 4, 1 << 20)
        self._sock.sendall(_PREFACE + _frame(_SETTINGS, 0, 0, settings) + _window(1 << 30))
        self._head = b"\x83\x86" + b"".join(
            _literal(name, value)
            for name, value in (
                (b":path", path.encode()), (b":authority", b"a"), (b"te", b"trailers"),
                (b"content-type", b"application/grpc"), (b"user-agent", _USER_AGENT),
            )
        )  # fmt: skip
        self._messages = [b"\0" + struct.pack(">I", len(body)) + body for body in bodies]
        self._next = 1
        self._may_send = _WINDOW
        self._received = 0
        self._buffer = b""

    def close(self) -> None:
        """End the connection."""
        self._sock.close()

    def run(self, in_flight: int, seconds: float) -> Round:
        """Call for some seconds, and wait for the last answers. Raises BenchError where the connection ends."""
        answered = calls = open_calls = 0
        began_s = time.monotonic()
        end_s = began_s + seconds
        while True:
            is_over = time.monotonic() > end_s
            if is_over and not open_calls:
                return Round(answered, calls, time.monotonic() - began_s)
            frames = []
            while not is_over and open_calls < in_flight:
                message = self._messages[calls % len(self._messages)]
                if self._may_send < len(message):
                    break
                frames += [_frame(_HEADERS, _END_HEADERS, self._next, self._head),
                           _frame(_DATA, _END_STREAM, self._next, message)]  # fmt: skip
                self._may_send -= len(message)
                self._next, calls, open_calls = self._next + 2, calls + 1, open_calls + 1
            if frames:
                self._sock.sendall(b"".join(frames))
            messages, ended = self._receive()
            answered += messages
            open_calls -= ended

    def _receive(self) -> tuple[int, int]:
        """Take what has come; return how many messages, and how many calls have ended."""
        data = self._sock.recv(1 << 18)
        if not data:
            raise BenchError("front_door: the server has ended a connection of gRPC")
        buffer, at, messages, ended, owed = self._buffer + data, 0, 0, 0, []
        while len(buffer) - at >= 9 and len(buffer) - at - 9 >= (size := int.from_bytes(buffer[at : at + 3], "big")):
            kind, flags = buffer[at + 3], buffer[at + 4]
            payload = buffer[at + 9 : at + 9 + size]
            if kind == _DATA:
                messages += 1
                self._received += size
            elif kind == _SETTINGS and not flags & _ACK:
                owed.append(_frame(_SETTINGS, _ACK, 0))
            elif kind == _PING and not flags & _ACK:
                owed.append(_frame(_PING, _ACK, 0, payload))
            elif kind == _WINDOW_UPDATE and buffer[at + 5 : at + 9] == b"\0\0\0\0":
                self._may_send += int.from_bytes(payload, "big")
            elif kind == _GOAWAY:
                raise BenchError(f"front_door: the server says {payload!r}")
            ended += kind == _RST_STREAM or bool(kind == _HEADERS and flags & _END_STREAM)
            at += 9 + size
        self._buffer = buffer[at:]
        if self._received > _CREDIT:
            owed.append(_window(self._received))
            self._received = 0
        if owed:
            self._sock.sendall(b"".join(owed))
        return messages, ended


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def _window(more: int) -> bytes:
    return _frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", more))


def _literal(name: bytes, value: bytes) -> bytes:
    return bytes([0, len(name)]) + name + bytes([len(value)]) + value
