"""The bytes of one direction of a connection, split into HTTP/1.1 messages as they pass: heads, bodies, ends.

Nothing is changed or held back but a head, until it is whole. What is no HTTP is one message without an end: a client
that sends such bytes is recorded as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Final, NamedTuple

HEAD_BYTES_MAX: Final = 64 << 10
LINE_BYTES_MAX: Final = 4 << 10
"""Of a chunk's size, or a trailer."""
DIGITS_MAX: Final = 16
"""Of a length: more bytes are no body."""
_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;[^\n]*)?\Z")


class Kind(Enum):
    """What a part of the bytes is. GARBLED: no HTTP."""

    HEAD = "head"
    BODY = "body"
    END = "end"
    GARBLED = "garbled"


class Part(NamedTuple):
    """A part of the bytes, in their order. content: of the body, where `raw` has chunks' sizes too."""

    kind: Kind
    raw: bytes = b""
    content: bytes = b""


class MessageStream:
    """Splits the bytes of one direction. is_answer: of the answers, some of which have no body whatever they say.

    expect_body: is to be set, before an answer comes, to whether it has a body if it says so.
    """

    def __init__(self, *, is_answer: bool) -> None:
        self.expect_body = True
        self._is_answer = is_answer
        self._held = b""
        self._left = 0
        self._state: Callable[[], list[Part] | None] = self._head

    @property
    def is_between(self) -> bool:
        """Whether no message has begun that is not whole."""
        return self._state == self._head and not self._held

    def parts(self, data: bytes) -> Iterator[Part]:
        """Give the parts of what came, as far as they can be told."""
        self._held += data
        while self._held:
            found = self._state()
            if found is None:
                return
            yield from found

    def end(self) -> Iterator[Part]:
        """Give what is left where the connection has ended."""
        if self._held:
            yield Part(Kind.GARBLED if self._state == self._head else Kind.BODY, self._held)
            self._held = b""
        if self._state == self._until_close:
            yield Part(Kind.END)
            self._state = self._head

    def _head(self) -> list[Part] | None:
        end = self._held.find(b"\r\n\r\n")
        if end < 0:
            if len(self._held) <= HEAD_BYTES_MAX:
                return None
            return self._garbled()
        raw, rest = self._held[: end + 4], self._held[end + 4 :]
        head = fields_of(raw)
        line = raw.partition(b"\r\n")[0]
        if b" HTTP/" not in line and not line.startswith(b"HTTP/"):
            return self._garbled()
        self._held = rest
        return [Part(Kind.HEAD, raw), *self._begin_body(line, head)]

    def _begin_body(self, line: bytes, fields: dict[bytes, bytes]) -> list[Part]:
        """Decide how the body is told; return the end where there is none."""
        status = line.split(b" ", 2)[1][:3] if self._is_answer and b" " in line else b""
        length = fields.get(b"content-length", b"")
        if status[:1] == b"1" or (self._is_answer and (status in (b"204", b"304") or not self.expect_body)):
            return [] if status[:1] == b"1" else [Part(Kind.END)]
        if fields.get(b"transfer-encoding", b"").lower().endswith(b"chunked"):
            self._state = self._chunk
        elif len(length) > DIGITS_MAX:
            return self._garbled()
        elif length.isdigit() and int(length):
            self._left, self._state = int(length), self._body
        elif self._is_answer and not length:
            self._state = self._until_close
        else:
            return [Part(Kind.END)]
        return []

    def _body(self) -> list[Part]:
        raw, self._held = self._held[: self._left], self._held[self._left :]
        self._left -= len(raw)
        if self._left:
            return [Part(Kind.BODY, raw, raw)]
        self._state = self._head
        return [Part(Kind.BODY, raw, raw), Part(Kind.END)]

    def _until_close(self) -> list[Part]:
        raw, self._held = self._held, b""
        return [Part(Kind.BODY, raw, raw)]

    def _chunk(self) -> list[Part] | None:
        """Read a chunk's size, or the last one."""
        end = self._held.find(b"\r\n")
        if end < 0:
            return None if len(self._held) <= LINE_BYTES_MAX else self._garbled()
        told = _SIZE.match(self._held, 0, end)
        if told is None:
            return self._garbled()
        size = int(told[1], 16)
        if not size:
            self._state = self._trailer
            return []
        raw, self._held = self._held[: end + 2], self._held[end + 2 :]
        self._left, self._state = size + 2, self._chunk_body
        return [Part(Kind.BODY, raw)]

    def _chunk_body(self) -> list[Part]:
        raw, self._held = self._held[: self._left], self._held[self._left :]
        content = raw[: max(self._left - 2, 0)]
        self._left -= len(raw)
        if not self._left:
            self._state = self._chunk
        return [Part(Kind.BODY, raw, content)]

    def _trailer(self) -> list[Part] | None:
        """Read the last chunk's line and what fields follow it."""
        end = self._held.find(b"\r\n\r\n")
        if end < 0:
            return None if len(self._held) <= LINE_BYTES_MAX else self._garbled()
        raw, self._held = self._held[: end + 4], self._held[end + 4 :]
        self._state = self._head
        return [Part(Kind.BODY, raw), Part(Kind.END)]

    def _garbled(self) -> list[Part]:
        """Pass on what is no HTTP, now and from now on."""
        raw, self._held, self._state = self._held, b"", self._garbled
        return [Part(Kind.GARBLED, raw)]


def fields_of(head: bytes) -> dict[bytes, bytes]:
    """Return the headers of a head by their lower-case names, the last of one that comes twice."""
    lines = head.split(b"\r\n")[1:]
    pairs = (line.partition(b":") for line in lines if b":" in line)
    return {name.strip().lower(): value.strip() for name, _, value in pairs}
