"""An answer as it comes off a connection: its whole, in bounds, or nothing."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import httptools

HEAD_BYTES_MAX: Final = 64 << 10
"""Of an answer, beside its body."""
CHUNK_BYTES_MAX: Final = 8
"""Of framing a byte of the body: a body in chunks of one byte each is more framing than body."""


class Answer(NamedTuple):
    """An answer. retry_after: as it stands there, or empty."""

    status: int
    is_problem: bool
    retry_after: bytes
    body: bytes


class UnreadableAnswerError(Exception):
    """An answer that is not HTTP, has no length, or is too large."""


class AnswerReader:
    """Reads the answers of one connection, one at a time.

    begin() says that a request is out; feed() returns its answer once it is whole. After an error, or once `is_spoilt`,
    the connection must be closed: what else comes belongs to nobody.
    """

    def __init__(self, body_bytes_max: int) -> None:
        self._body_bytes_max = body_bytes_max
        self._parser: Any = httptools.HttpResponseParser(self)
        self.is_spoilt = False
        self.begin()

    def begin(self) -> None:
        """Wait for an answer."""
        self._answer: Answer | None = None
        self._bytes = 0
        self._is_waiting = True
        self._reset()

    def _reset(self) -> None:
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._has_length = self._is_problem = False
        self._retry_after = b""

    @property
    def has_begun(self) -> bool:
        """Whether a byte of the answer has come."""
        return self._bytes > 0

    def feed(self, data: bytes) -> Answer | None:
        """Read on; return the answer once it is whole. Raises UnreadableAnswerError."""
        self._bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            self.is_spoilt = True
            raise UnreadableAnswerError(str(error.__context__ or error)) from None
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.is_spoilt = True
            raise UnreadableAnswerError(f"the answer is not HTTP: {error}") from None
        if self._answer is None and self._bytes > HEAD_BYTES_MAX + CHUNK_BYTES_MAX * self._body_bytes:
            self.is_spoilt = True
            raise UnreadableAnswerError(f"the answer's head is longer than {HEAD_BYTES_MAX} bytes")
        return self._answer

    # -- what the parser calls --------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Begin an answer."""
        if not self._is_waiting:  # a second answer in the bytes of the first one
            self.is_spoilt = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep what matters; a length that is too much is not waited for."""
        if not self._is_waiting:
            return
        name = name.lower()
        if name == b"content-length":
            self._has_length = True
            if int(value) > self._body_bytes_max:
                raise UnreadableAnswerError(f"the answer has {int(value)} bytes, and may have {self._body_bytes_max}")
        elif name == b"transfer-encoding":
            self._has_length = True
        elif name == b"content-type":
            self._is_problem = value.startswith(b"application/problem+json")
        elif name == b"retry-after":
            self._retry_after = value
        elif name == b"content-encoding" and value.lower() != b"identity":
            raise UnreadableAnswerError("the answer is compressed, which was not asked for")

    def on_headers_complete(self) -> None:
        """Refuse an answer that would end with the connection: one cut short looks the same."""
        status = self._parser.get_status_code()
        if self._is_waiting and not self._has_length and status >= 200 and status not in {204, 304}:
            raise UnreadableAnswerError("the answer has no length")

    def on_body(self, body: bytes) -> None:
        """Keep a part of the body."""
        if not self._is_waiting:
            return
        self._body_bytes += len(body)
        if self._body_bytes > self._body_bytes_max:
            raise UnreadableAnswerError(f"the answer is longer than {self._body_bytes_max} bytes")
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Make the answer; what only announces one (100 Continue) is passed over."""
        status = self._parser.get_status_code()
        if not self._is_waiting:
            return
        if status < 200:
            self._reset()
            return
        if not self._parser.should_keep_alive():
            self.is_spoilt = True
        self._is_waiting = False
        self._answer = Answer(status, self._is_problem, self._retry_after, b"".join(self._body))
