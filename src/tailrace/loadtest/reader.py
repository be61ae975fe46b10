"""Splits a byte stream into HTTP/1.1 answers: the status, and Content-Length bytes of body. Nothing else is read.

A generator must cost less than the server it measures, so this knows one framing only, which is what a JSON API
speaks. An answer framed otherwise (chunked, or ended by closing) is refused, never guessed at.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

HEAD_BYTES_MAX: Final = 64 << 10
BODY_BYTES_MAX: Final = 64 << 20
HEADS_CACHED_MAX: Final = 64
"""Heads remembered. Servers send the same head for a second at a time (its Date); parsing it once is enough."""

_STATUS_LINE: Final = re.compile(rb"HTTP/1\.([01]) ([1-9]\d\d)(?: [^\r\n]*)?(?=\r\n|\Z)")
_FIELD: Final = re.compile(rb"\r\n(content-length|transfer-encoding|connection):[ \t]*([^\r\n]*)", re.IGNORECASE)
_STATUSES_WITHOUT_BODY: Final = (204, 304)


class Head(NamedTuple):
    """What matters of an answer's head."""

    status: int
    body_bytes: int
    closes: bool
    """The server closes the connection after this answer."""


class UnreadableAnswerError(ValueError):
    """A head that says nothing this reader can frame."""


class AnswerReader:
    """The answers of one connection, fed with whatever pieces the socket gives.

    Once `fault` says something, the next answer cannot be framed; once `closes` is true, the server has said that no
    answer follows. Either way the connection is over and further pieces are dropped.
    """

    __slots__ = ("_heads", "_pieces", "_pieces_bytes", "_wanted_bytes", "closes", "fault")

    def __init__(self) -> None:
        self.closes = False
        self.fault = ""
        self._heads: dict[bytes, Head] = {}
        self._pieces: list[bytes] = []
        self._pieces_bytes = 0
        self._wanted_bytes = 0

    def feed(self, piece: bytes) -> list[tuple[int, bytes]]:
        """Return (status, body) of each answer that this piece completes, in order."""
        if self._pieces:
            self._pieces.append(piece)
            self._pieces_bytes += len(piece)
            if self._pieces_bytes < self._wanted_bytes:
                return []
            piece = b"".join(self._pieces)
            self._pieces.clear()
        answers: list[tuple[int, bytes]] = []
        rest = piece
        try:
            rest = piece[self._split(piece, answers) :]
        except UnreadableAnswerError as error:
            self.fault = str(error)
        if rest and not self.fault and not self.closes:
            self._pieces.append(rest)
            self._pieces_bytes = len(rest)
        return answers

    def _split(self, data: bytes, answers: list[tuple[int, bytes]]) -> int:
        """Append every whole answer in the data; return where the first unfinished one starts."""
        start, size = 0, len(data)
        self._wanted_bytes = 0
        while start < size and not self.closes:
            end = data.find(b"\r\n\r\n", start)
            if end < 0:
                if size - start > HEAD_BYTES_MAX:
                    raise UnreadableAnswerError(f"an answer's head is over {HEAD_BYTES_MAX:,} bytes")
                break
            line = data[start:end]
            head = self._heads.get(line) or self._remember(line)
            stop = end + 4 + head.body_bytes
            if stop > size:
                self._wanted_bytes = stop - start
                break
            start = stop
            if head.status >= 200:  # 1xx are notes on the way, not answers
                answers.append((head.status, data[end + 4 : stop]))
                self.closes = head.closes
        return start

    def _remember(self, head_bytes: bytes) -> Head:
        if len(self._heads) >= HEADS_CACHED_MAX:
            self._heads.clear()
        head = self._heads[head_bytes] = parse_head(head_bytes)
        return head


def parse_head(head_bytes: bytes) -> Head:
    """Return what matters of a head (status line and fields, without the empty line).

    Raises UnreadableAnswerError when the line is not HTTP/1.x's, or does not say the body's length plainly.
    """
    line = _STATUS_LINE.match(head_bytes)
    if line is None:
        raise UnreadableAnswerError(f"{head_bytes[:40]!r} does not start an HTTP/1.x answer")
    status = int(line[2])
    lengths: set[bytes] = set()
    options = b"" if line[1] == b"1" else b"close"
    for name, value in _FIELD.findall(head_bytes, line.end()):
        match name.lower():
            case b"content-length":
                lengths.add(value.strip())
            case b"transfer-encoding":
                raise UnreadableAnswerError(
                    f"Transfer-Encoding {value.decode('latin-1')!r}; only Content-Length is read"
                )
            case _:
                options = value.lower()
    closes = b"close" in options
    if status < 200 or status in _STATUSES_WITHOUT_BODY:
        return Head(status, 0, closes)
    if len(lengths) != 1 or not (length := lengths.pop()).isdigit() or int(length) > BODY_BYTES_MAX:
        raise UnreadableAnswerError(f"status {status} without one Content-Length of 0 to {BODY_BYTES_MAX:,}")
    return Head(status, int(length), closes)
