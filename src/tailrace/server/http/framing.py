"""The bytes around a body: status line, headers, compression. What can be written beforehand is."""

from __future__ import annotations

import gzip
import time
from collections.abc import Sequence
from email.utils import formatdate
from http import HTTPStatus
from typing import Final, cast

from tailrace.batch import JSON, Batch, Degraded
from tailrace.codecs.inflating import CODINGS
from tailrace.deadline import LAYERS, NS_PER_MS
from tailrace.errors import RateLimitedError, ServingError, UnsupportedCodingError
from tailrace.refusals import SHED
from tailrace.response.problem import CONTENT_TYPE, problem_body
from tailrace.server.endpoint import CallEndpoint, RateLimits
from tailrace.server.http.head import Head
from tailrace.server.oip.errors import error_body
from tailrace.server.oip.rest import RestAsked

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
GZIP_BYTES_MIN: Final = 1_024
_LENGTHS: Final = tuple(b"%d\r\n\r\n" % length for length in range(4_096))
_REASONS: Final = {status.value: status.phrase.encode() for status in HTTPStatus}
RETRY_AFTER_S: Final = b"1"
TAKEN: Final = b"Accept-Encoding: " + b", ".join(coding for coding in CODINGS if not coding.startswith(b"x-"))
_PLAIN: Final = Head(endpoint=None, body_bytes=0, is_plain=True, keep_alive=True)


class _Begins(dict[bytes, bytes]):
    """By content type, how the usual answer of one second begins, up to a header's value; made when first asked for."""

    __slots__ = ("_date", "_header")

    def __init__(self, date: bytes, header: bytes = b"Content-Length") -> None:
        super().__init__()
        self._date, self._header = date, header

    def __missing__(self, content_type: bytes) -> bytes:
        """Return how it begins, and keep it."""
        self[content_type] = begin = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nDate: %b\r\n%b: " % (
            content_type,
            self._date,
            self._header,
        )
        return begin


class Framing:
    """Makes answers. One a worker; `renew_date` is called once a second. release: that it serves, told on request."""

    def __init__(self, release: bytes = b"") -> None:
        self._release = b"X-Release: " + release
        self._date = b""
        self._ok = self._named = _Begins(b"")
        self.shed = b""
        """The whole answer to a call that is shed: under overload it is given more often than any other."""
        self.renew_date()

    def renew_date(self) -> None:
        """Take the current second into the Date header (RFC 9110 §6.6.1)."""
        self._date = formatdate(time.time(), usegmt=True).encode()
        self._ok, self._named = _Begins(self._date), _Begins(self._date, b"X-Request-Id")
        self.shed = self.full(_PLAIN, SHED.status, CONTENT_TYPE, problem_body(SHED), [b"Retry-After: " + RETRY_AFTER_S])

    def ok(self, bodies: list[bytes], content_type: bytes) -> list[bytes]:
        """Return the usual answer around each body: 200, keep-alive, nothing else asked for."""
        ok, lengths, known = self._ok[content_type], _LENGTHS, len(_LENGTHS)
        return [ok + (lengths[size] if (size := len(body)) < known else b"%d\r\n\r\n" % size) + body for body in bodies]

    def named(self, bodies: list[bytes], content_type: bytes, ids: list[bytes]) -> list[bytes]:
        """Return the usual answer around each body, with an id each; see `ok`."""
        begin = self._named[content_type]
        return [
            b"%b%b\r\nContent-Length: %d\r\n\r\n%b" % (begin, name, len(body), body)
            for name, body in zip(ids, bodies, strict=True)
        ]

    def rich(
        self, head: Head, request_id: bytes, batch: Batch, place: int, *, compress: bool, close: bool = False
    ) -> bytes:
        """Return the answer to the call at a place of a batch, with what its head asks for: timing, compression, id.

        compress: whether the bodies of the batch are long enough for it.
        """
        extra = [b"Server-Timing: " + server_timing(batch, place), self._release] if head.trace else []
        if head.trace and isinstance(head.endpoint, CallEndpoint):
            extra += _limits(head.endpoint.rate_limits())
        body, error = batch.bodies[place], batch.errors.get(place)
        if error is not None:
            return self.error(head, error, request_id, close=close, extra=extra)
        if compress and head.gzip and len(body) > GZIP_BYTES_MIN:
            body = gzip.compress(body, compresslevel=1, mtime=0)
            extra.append(b"Content-Encoding: gzip\r\nVary: Accept-Encoding")
        codec = batch.calls[place].codec
        content_type = JSON if codec is None else codec.content_type
        if head.is_oip:
            extra.extend(cast(RestAsked, codec).headers)
        return self.full(head, batch.status, content_type, body, extra, request_id, close=close)

    def error(
        self,
        head: Head | None,
        error: ServingError,
        request_id: bytes = b"",
        *,
        close: bool,
        extra: Sequence[bytes] = (),
    ) -> bytes:
        """Return an error as problem details (RFC 9457), or as the Open Inference Protocol has it."""
        extra, status = list(extra), error.status
        if head is not None and head.trace and not extra:
            extra.append(self._release)
        if type(status) is not int or not 400 <= status <= 599:
            status = 500  # a user's own error, whose status would end the answer elsewhere or be none
        if error.status == 503:
            extra.append(b"Retry-After: " + RETRY_AFTER_S)
        if isinstance(error, RateLimitedError):
            extra.append(b"Retry-After: %d" % error.retry_after_s)
            extra += _limits([(error.policy, error.left)] if error.policy else [])
        if error.status == 401:
            extra.append(b"WWW-Authenticate: Bearer")
        if isinstance(error, UnsupportedCodingError):
            extra.append(TAKEN)
        if head is not None and error.status == 405:
            extra.append(b"Allow: " + head.allow)
        if head is not None and head.is_oip:
            return self.full(head, status, JSON, error_body(error), extra, request_id, close=close)
        return self.full(head, status, CONTENT_TYPE, problem_body(error), extra, request_id, close=close)

    def full(
        self,
        head: Head | None,
        status: int,
        content_type: bytes,
        body: bytes,
        extra: Sequence[bytes] = (),
        request_id: bytes = b"",
        *,
        close: bool = False,
    ) -> bytes:
        """Return any answer. head None: the request could not be read, so nothing of it is known."""
        lines = [
            b"HTTP/1.1 %d %s" % (status, _REASONS.get(status, b"Error")),
            b"Content-Type: " + content_type,
            b"Date: " + self._date,
            b"Content-Length: %d" % len(body),
            *extra,
        ]
        if request_id:
            lines.append(b"X-Request-Id: " + request_id)
        if close or head is None or not head.keep_alive:
            lines.append(b"Connection: close")
        elif head.version == "1.0":
            lines.append(b"Connection: keep-alive")
        lines.append(b"\r\n")
        return b"\r\n".join(lines) + (body if head is None or head.with_body else b"")


def _limits(limits: RateLimits) -> list[bytes]:
    """Return the headers that tell of limits."""
    if not limits:
        return []
    policies, lefts = (", ".join(told).encode() for told in zip(*limits, strict=True))
    return [b"RateLimit-Policy: " + policies, b"RateLimit: " + lefts]


def server_timing(batch: Batch, place: int) -> bytes:
    """Return the value of Server-Timing: the wait, the five layers in ms, and why the answer is degraded.

    Of an answer that another call's computation gave, its layers, where there were any, and how it came to it.
    """
    marks = batch.marks_ns
    parts = [f"queue;dur={max(batch.started_ns - batch.calls[place].arrival_ns, 0) / NS_PER_MS:.3f}"]
    if batch.coalesced:
        parts.append(f'coalesced;desc="{batch.coalesced}"')
    parts += [
        f"{layer};dur={(end - begin) / NS_PER_MS:.3f}"
        for layer, begin, end in zip(LAYERS, marks, marks[1:], strict=False)
    ]
    if batch.degraded is not None:
        bits = 0
        for row in batch.degraded[batch.rows_of_call(place)]:
            bits |= int(row)
        parts += [f'degraded;desc="{reason.name.lower()}"' for reason in Degraded if bits & reason and reason.name]
    return ", ".join(parts).encode()
