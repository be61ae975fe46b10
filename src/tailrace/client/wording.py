"""How a call is written and its answer read: heads made once, one codec, values or types."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final
from urllib.parse import quote

import msgspec

from tailrace.client.address import Address
from tailrace.client.answer import Answer
from tailrace.client.failure import error_of
from tailrace.client.options import Options
from tailrace.deadline import NS_PER_MS
from tailrace.errors import InvalidRequestError, ServerError

HEADS_MAX: Final = 1_024
"""Heads that are remembered: endpoints times pipelines."""
TYPES: Final = {"json": "application/json", "msgpack": "application/msgpack"}


class Wording:
    """Writes the calls of one client and reads their answers."""

    def __init__(self, options: Options) -> None:
        content_type = TYPES[options.codec]
        lines = [f"Content-Type: {content_type}", *(f"{name}: {value}" for name, value in options.headers.items())]
        self._lines = "".join(f"{line}\r\n" for line in lines)
        encoder: Any = msgspec.json.Encoder() if options.codec == "json" else msgspec.msgpack.Encoder()
        self._encode: Callable[[Any], bytes] = encoder.encode
        self._decoder: Any = msgspec.json.Decoder if options.codec == "json" else msgspec.msgpack.Decoder
        self._heads: dict[tuple[Address, str], bytes] = {}
        self._decoder_of = lru_cache(256)(self._make_decoder)

    def body(self, request: Any) -> bytes:
        """Return a request's bytes. Raises InvalidRequestError for what the codec cannot write."""
        try:
            return self._encode(request)
        except (TypeError, ValueError, OverflowError, UnicodeEncodeError, RecursionError) as error:
            raise InvalidRequestError(
                str(error), where="the request", next="send numbers, texts, lists, dicts"
            ) from error

    def message(self, address: Address, pipeline: str, body: bytes, left_ns: int) -> bytes:
        """Return a call's bytes. left_ns: of its budget; the server is told."""
        head = self._heads.get((address, pipeline)) or self._head(address, pipeline)
        return b"%bX-Budget-Ms: %.3f\r\nContent-Length: %d\r\n\r\n%b" % (
            head, max(left_ns / NS_PER_MS, 0.001), len(body), body,
        )  # fmt: skip

    def value(self, answer: Answer, into: Any, url: str) -> Any:
        """Return an answer's value. Raises the error that it tells; ServerError where it is not what was expected."""
        if answer.status != 200:
            raise error_of(answer, url)
        try:
            return self._decoder_of(into)(answer.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ServerError(f"the answer is not as expected: {error}", where=url, next="look at `into`") from error

    def _head(self, address: Address, pipeline: str) -> bytes:
        path = f"/v1/pipelines/{quote(pipeline, safe='')}/predict"
        head = f"POST {path} HTTP/1.1\r\nHost: {address.host_header}\r\n{self._lines}".encode("ascii")
        if len(self._heads) < HEADS_MAX:
            self._heads[address, pipeline] = head
        return head

    def _make_decoder(self, into: Any) -> Callable[[bytes], Any]:
        decode: Callable[[bytes], Any] = self._decoder(into).decode
        return decode
