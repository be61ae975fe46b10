"""How a call is written and its answer read: heads made once, one codec, values or types."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final
from urllib.parse import quote

import msgspec

from tailrace.client.address import Address
from tailrace.client.answer import Answer
from tailrace.client.failure import error_of
from tailrace.client.options import Options, check_headers, lines_of
from tailrace.deadline import NS_PER_MS
from tailrace.errors import InvalidRequestError, ServerError

HEADS_MAX: Final = 1_024
"""Heads that are remembered: endpoints times pipelines."""
TOLD_BITS: Final = 6
"""The digits, in base two, of a budget as a server is told it: at most a 32nd is kept back."""
LEFT_NS_MIN: Final = 1_000
TYPES: Final = {"json": "application/json", "msgpack": "application/msgpack"}


class Wording:
    """Writes the calls of one client and reads their answers."""

    def __init__(self, options: Options) -> None:
        content_type = TYPES[options.codec]
        self._lines = f"Content-Type: {content_type}\r\n{lines_of(options.headers)}"
        encoder: Any = msgspec.json.Encoder() if options.codec == "json" else msgspec.msgpack.Encoder()
        self._encode: Callable[[Any], bytes] = encoder.encode
        self._decoder: Any = msgspec.json.Decoder if options.codec == "json" else msgspec.msgpack.Decoder
        self._heads: dict[tuple[Address, str], bytes] = {}
        self._decoder_of = lru_cache(256)(self._make_decoder)

    def words(self, pipeline: str, request: Any, into: Any, headers: Mapping[str, str] | None) -> Words:
        """Return one call. Raises InvalidRequestError for what the codec cannot write, SetupError for headers."""
        decode = self._decoder_of(Any if into is None else into)  # first: a type that is none costs no call
        try:
            body = self._encode(request)
        except (TypeError, ValueError, OverflowError, UnicodeEncodeError, RecursionError) as error:
            raise InvalidRequestError(
                str(error), where="the request", next="send numbers, texts, lists, dicts"
            ) from error
        lines = b""
        if headers:
            check_headers(headers)
            lines = lines_of(headers).encode("ascii")
        return Words(self, pipeline, lines, body, decode)

    def head(self, address: Address, pipeline: str) -> bytes:
        """Return what all calls of a pipeline to one server begin with."""
        return self._heads.get((address, pipeline)) or self._make_head(address, pipeline)

    def _make_head(self, address: Address, pipeline: str) -> bytes:
        path = f"/v1/pipelines/{quote(pipeline, safe='')}/predict"
        head = f"POST {path} HTTP/1.1\r\nHost: {address.host_header}\r\n{self._lines}".encode("ascii")
        if len(self._heads) < HEADS_MAX:
            self._heads[address, pipeline] = head
        return head

    def _make_decoder(self, into: Any) -> Callable[[bytes], Any]:
        decode: Callable[[bytes], Any] = self._decoder(into).decode
        return decode


class Words:
    """One call: its bytes for whichever server is asked, and how its answer is read."""

    __slots__ = ("_body", "_decode", "_lines", "_pipeline", "_wording")

    def __init__(
        self, wording: Wording, pipeline: str, lines: bytes, body: bytes, decode: Callable[[bytes], Any]
    ) -> None:
        self._wording = wording
        self._pipeline = pipeline
        self._lines = lines
        self._body = body
        self._decode = decode

    def message(self, address: Address, left_ns: int) -> bytes:
        """Return the call's bytes. left_ns: of its budget; the server is told."""
        return b"%b%bX-Budget-Ms: %.3f\r\nContent-Length: %d\r\n\r\n%b" % (
            self._wording.head(address, self._pipeline),
            self._lines,
            told_ns(left_ns) / NS_PER_MS,
            len(self._body),
            self._body,
        )

    def value(self, answer: Answer, url: str) -> Any:
        """Return an answer's value. Raises the error that it tells; ServerError where it is not what was expected."""
        if answer.status != 200:
            raise error_of(answer, url)
        try:
            return self._decode(answer.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ServerError(f"the answer is not as expected: {error}", where=url, next="look at `into`") from error


def told_ns(left_ns: int) -> int:
    """Return what a server is told of the time that is left, rounded down: calls of one budget are told the same.

    A server remembers a head by its bytes, and reads one that is new for each call with care, which takes longer.
    """
    step_ns = 1 << max(left_ns.bit_length() - TOLD_BITS, 0)
    return max(left_ns - left_ns % step_ns, LEFT_NS_MIN)
