"""The corpus of hostile connections to a gRPC server: frames of HTTP/2 (RFC 9113) and messages of gRPC, as bytes.

None of them is a sound call, so none may be decided. `SOUND` is one, by the same bytes: it shows that the others are
refused for what is wrong with them.
"""

from __future__ import annotations

import gzip
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
END_STREAM, END_HEADERS, PADDED = 1, 4, 8
PATH: Final = "/tailrace.wire.Predictor/Predict"


def frame(kind: int, payload: bytes = b"", *, flags: int = 0, stream: int = 0, size: int | None = None) -> bytes:
    """Return a frame. size: that it claims, where it lies."""
    length = len(payload) if size is None else size
    return length.to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def text(value: str) -> bytes:
    """Return a text as HPACK has it, without Huffman's code; up to 126 bytes."""
    return bytes([len(value)]) + value.encode("latin-1")


def block(*headers: tuple[str, str]) -> bytes:
    """Return headers as literals that nobody keeps."""
    return b"".join(b"\x10" + text(name) + text(value) for name, value in headers)


def call(*more: tuple[str, str], path: str = PATH) -> bytes:
    """Return the headers of a call."""
    head = ((":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "a"))
    return block(*head, ("te", "trailers"), ("content-type", "application/grpc"), *more)


def opened(stream: int = 1, *, headers: bytes | None = None, flags: int = END_HEADERS) -> bytes:
    """Return the frame that opens a stream for a call."""
    return frame(HEADERS, call() if headers is None else headers, flags=flags, stream=stream)


def message(body: bytes, *, flag: int = 0, size: int | None = None) -> bytes:
    """Return a message with its prefix. size: that it claims."""
    return bytes([flag]) + (len(body) if size is None else size).to_bytes(4) + body


def sent(payload: bytes, *, stream: int = 1, flags: int = END_STREAM) -> bytes:
    """Return data of a stream, its last."""
    return frame(DATA, payload, flags=flags, stream=stream)


BODY: Final = b"\x09\x00\x00\x00\x00\x00\x00\x00\x40"  # 2.0 in the field 1
BOMB: Final = gzip.compress(b"\0" * 10_000_000, mtime=0)[:15_000]
HELLO: Final = PREFACE + frame(SETTINGS)
SOUND: Final = HELLO + opened() + sent(message(BODY))

CASES: Final[dict[str, bytes]] = {
    # -- what is no HTTP/2 --
    "nothing": b"",
    "zero bytes": b"\0" * 5_000,
    "a request of HTTP 1": b"POST /v1/pipelines/wire/predict HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}",
    "a TLS handshake": bytes.fromhex("16030100c8010000c40303") + bytes(range(40)),
    "a preface cut short": PREFACE[:10],
    "a preface alone": PREFACE,
    "a preface that is another's": PREFACE.replace(b"SM", b"XX"),
    # -- frames --
    "a frame of sixteen megabytes": HELLO + frame(DATA, b"x" * 100, stream=1, size=0xFFFFFF),
    "a frame cut short": HELLO + opened()[:20],
    "settings of five bytes": PREFACE + frame(SETTINGS, b"12345"),
    "settings on a stream": PREFACE + frame(SETTINGS, stream=1),
    "settings that forbid all frames": PREFACE + frame(SETTINGS, b"\x00\x05\x00\x00\x00\x00"),
    "a window beyond its bound": PREFACE + frame(SETTINGS, b"\x00\x04\xff\xff\xff\xff"),
    "settings without end": HELLO + frame(SETTINGS, b"\x00\x03\x00\x00\x00\x64") * 10_000,
    "pings without end": HELLO + frame(PING, b"12345678") * 10_000,
    "a ping of three bytes": HELLO + frame(PING, b"123"),
    "frames of kinds that there are not": HELLO + frame(0xEE, b"x" * 10) * 10_000,
    "priorities without end": HELLO + frame(PRIORITY, b"\0\0\0\0\x10", stream=1) * 10_000,
    "a stream that depends on itself": HELLO + frame(PRIORITY, b"\0\0\0\x01\x10", stream=1),
    "headers on no stream": HELLO + opened(0),
    "an even stream": HELLO + opened(2) + sent(message(BODY), stream=2),
    "a stream that goes back": HELLO + opened(5) + opened(3) + sent(message(BODY), stream=3),
    "data on a stream that is not open": HELLO + sent(message(BODY), stream=7),
    "padding longer than the frame": HELLO + opened() + frame(DATA, b"\xff123", flags=PADDED | END_STREAM, stream=1),
    "empty data without end": HELLO + opened() + frame(DATA, stream=1) * 10_000,
    "a push": HELLO + frame(PUSH, b"\0\0\0\x02" + call(), flags=END_HEADERS, stream=1),
    "a window that grows by nothing": HELLO + opened() + frame(WINDOW, b"\0\0\0\0", stream=1),
    "a window that overflows": HELLO + opened() + frame(WINDOW, b"\x7f\xff\xff\xff", stream=1) * 2,
    "goodbyes without end": HELLO + frame(GOAWAY, b"\0\0\0\0\0\0\0\0") * 1_000,
    "streams that are opened and reset": HELLO
    + b"".join(opened(n) + frame(RST, b"\0\0\0\x08", stream=n) for n in range(1, 4_001, 2)),
    "streams that are opened and left": HELLO + b"".join(opened(n) for n in range(1, 2_001, 2)),
    # -- headers --
    "headers that never end": HELLO
    + opened(flags=0)
    + frame(CONTINUATION, block(("x", "a" * 100)) * 10, stream=1) * 3_000,
    "headers cut off by another frame": HELLO + opened(flags=0) + frame(PING, b"12345678"),
    "a continuation of nothing": HELLO + frame(CONTINUATION, block(("x", "y")), flags=END_HEADERS, stream=1),
    "headers of a megabyte": HELLO
    + opened(flags=0)
    + frame(CONTINUATION, block(("x", "a" * 120)) * 100, stream=1) * 80
    + frame(CONTINUATION, b"", flags=END_HEADERS, stream=1),
    "a header kept once and named ten thousand times": HELLO
    + opened(headers=b"\x40" + text("x") + text("a" * 120) + b"\xbe" * 10_000),
    "an index that there is not": HELLO + opened(headers=b"\xff\xff\xff\xff\x0f"),
    "a table of four gigabytes": HELLO + opened(headers=b"\x3f\xff\xff\xff\xff\x0f" + call()),
    "a code of Huffman's that there is not": HELLO + opened(headers=b"\x10\x84\xff\xff\xff\xff\x01a"),
    "no path": HELLO + opened(headers=block((":method", "POST"), (":scheme", "http"))),
    "a path that there is not": HELLO + opened(headers=call(path=f"{PATH}/Nothing")) + sent(message(BODY)),
    "a path that climbs": HELLO + opened(headers=call(path=f"/..{PATH}")) + sent(message(BODY)),
    "a name in capitals": HELLO + opened(headers=call(("X-Y", "z"))) + sent(message(BODY)),
    "another content type": HELLO + opened(headers=block((":method", "POST"), (":scheme", "http"), (":path", PATH),
                                                          ("content-type", "text/html"))) + sent(message(BODY)),
    "a timeout of nothing": HELLO + opened(headers=call(("grpc-timeout", "0n"))) + sent(message(BODY)),
    # -- messages --
    "a message of four gigabytes": HELLO + opened() + sent(message(BODY, size=0xFFFFFFFF)),
    "a message cut short": HELLO + opened() + sent(message(BODY, size=100)),
    "half a prefix": HELLO + opened() + sent(b"\0\0"),
    "no message": HELLO + opened() + sent(b""),
    "a message that is compressed, and says not how": HELLO + opened() + sent(message(BODY, flag=1)),
    "a message with a flag that there is not": HELLO + opened() + sent(message(BODY, flag=0x7F)),
    "a message that is a bomb": HELLO
    + opened(headers=call(("grpc-encoding", "gzip")))
    + sent(message(BOMB, flag=1)),
    "a message that does not end": HELLO + opened() + sent(message(BODY, size=100), flags=0),
    "a message that is no message": HELLO + opened() + sent(message(b"\xff" * 50)),
    "a field of two gigabytes": HELLO + opened() + sent(message(b"\x12\xff\xff\xff\xff\x07")),
    "groups within groups": HELLO + opened() + sent(message(b"\x1b" * 10_000)),
    "a message of more than there may be": HELLO
    + opened()
    + frame(DATA, message(b"", size=2_000_000), stream=1)
    + frame(DATA, b"\0" * 16_000, stream=1) * 4,
}  # fmt: skip

TAKEN: Final[dict[str, bytes]] = {
    "two messages": HELLO + opened() + sent(message(BODY) * 2),
    "a header with a line end": HELLO + opened(headers=call(("x", "a\r\nb: c"))) + sent(message(BODY)),
    "a request id with a line end": HELLO + opened(headers=call(("x-request-id", "a\r\nb: c"))) + sent(message(BODY)),
    "a timeout that is none": HELLO + opened(headers=call(("grpc-timeout", "99999999999H"))) + sent(message(BODY)),
    "a request id that is no text": HELLO + opened(headers=call(("x-request-id", "\xff\xfe"))) + sent(message(BODY)),
    "a trace with a line end": HELLO + opened(headers=call(("traceparent", "a\r\nb: c"))) + sent(message(BODY)),
}
"""What the library takes for a call: it is decided once."""
