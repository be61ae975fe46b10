"""Reads the requests that fit no remembered head: httptools' parser, and what it gathers, for one connection.

Made when a connection first needs it. It holds no connection: what it has read whole, it hands over in order.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import httptools
import structlog

from tailrace.errors import BodyTooLargeError, ClientError, HeadersTooLargeError, ServerError, ServingError
from tailrace.server.http.head import Head, check_framing, read_head
from tailrace.server.http.shared import Shared
from tailrace.server.http.visitor import Visitor

OFFERS_MAX: Final = 8
"""Offers of another protocol passed over in one read; each costs a copy of what follows."""

OTHER_PROTOCOLS: Final = (b" RTSP/", b" ICE/")
"""Others that the parser reads, and does not tell from HTTP."""


class Message(NamedTuple):
    """A request that was read: its head and whole body; or, with None for a body, a head whose client waits for a word.

    raw, headers: the head's bytes and its headers, where it may be remembered; else empty.
    """

    head: Head
    body: bytes | None
    raw: bytes = b""
    headers: tuple[tuple[bytes, bytes], ...] = ()


class RequestReader:
    """One connection's parser. is_partial: whether a request has begun that is not whole; began_s: when it did.

    head: of the request that is being read, once its head is. tunnel: whether what follows is meant for a tunnel.
    visitor: whose connection it is, where its certificate says that.
    """

    def __init__(self, shared: Shared, visitor: Visitor | None = None) -> None:
        self._visitor = visitor
        self.is_partial = False
        self.began_s = 0
        self.head: Head | None = None
        self.tunnel = False
        self._shared = shared
        self._parser: Any = httptools.HttpRequestParser(self)
        self._messages: list[Message] = []
        self._raw = b""
        self._head_bytes = 0
        self._recent = bytearray()
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._remembered: tuple[tuple[bytes, bytes], ...] = ()
        self._body = bytearray()

    @property
    def bytes_held(self) -> int:
        """Bytes of the request that is being read, as far as it has come."""
        return self._head_bytes + len(self._body) if self.is_partial else 0

    def read(self, data: bytes, raw: bytes = b"") -> tuple[list[Message], ServingError | None]:
        """Take in what was received; return what is whole by now, and why no more can be read, if that is so.

        raw: the head that `data` begins with, where it may be remembered.
        """
        if not self.is_partial:
            self._raw = raw
        error: ServingError | None = None
        for _ in range(OFFERS_MAX):
            try:
                self._feed(data)
            except httptools.HttpParserUpgrade as offer:
                if self.head is None:
                    data = self._without_offer(data[offer.args[0] :])
                    continue
            except httptools.HttpParserCallbackError as fault:
                error = _error_of(fault)
            except httptools.HttpParserError as fault:
                error = ClientError(str(fault), next="send HTTP/1.1 as RFC 9112 has it")
            except ServingError as fault:
                error = fault.bare()  # which would hold this frame, and that the fault
            break
        else:
            error = ClientError("too many offers of another protocol", next="wait for the answer to the first")
        messages, self._messages = self._messages, []
        return messages, error

    def close(self) -> None:
        """Let go of the parser: it holds this reader, and serving collects no cycles."""
        self._parser = None

    def _feed(self, data: bytes) -> None:
        """Give the parser what has come; hold heads, trailers and extensions, which it gathers itself, to their limit.

        Raises httptools' errors and HeadersTooLargeError.
        """
        fresh, headers, head, body_bytes = not self.is_partial, self._headers, self.head, len(self._body)
        self._recent += data
        self._parser.feed_data(data)
        if self.head is not None or not self.is_partial:
            self._recent.clear()
        if self.is_partial:
            if self._headers is headers and self.head is head and len(self._body) == body_bytes:
                self._head_bytes += len(data)
            else:
                self._head_bytes = len(data) if fresh and b"\r\n\r\n" not in data else 0
            self._check_head(self._head_bytes)

    def _without_offer(self, rest: bytes) -> bytes:
        """Return the head just read as if it offered no other protocol (RFC 9110 §7.8), and what follows it.

        To the parser a request that does ends with its head, whatever its Content-Length.
        """
        parser, version = self._parser, self._parser.get_http_version().encode()
        self._parser = httptools.HttpRequestParser(self)
        lines = [b"%b %b HTTP/%b" % (parser.get_method(), self._url, version)]
        lines += [b"%b: %b" % (n, v) for n, v in self._headers if n.lower() not in (b"connection", b"upgrade")]
        lines.append(b"Connection: " + (b"keep-alive" if parser.should_keep_alive() else b"close"))
        return b"\r\n".join([*lines, b"\r\n"]) + rest

    def _check_head(self, head_bytes: int) -> None:
        """Raise HeadersTooLargeError for a head, a trailer or a chunk's extension over the limit."""
        limit = self._shared.limits.header_bytes_max
        if head_bytes > limit:
            raise HeadersTooLargeError(f"the head or trailer is over {limit} bytes", next="send fewer, shorter headers")

    def _check_protocol(self, method: bytes) -> None:
        """Raise ClientError for a head of another protocol, which the parser takes for one of HTTP of that version."""
        for name in OTHER_PROTOCOLS:
            if name in self._recent and b"%b %b%b" % (method, self._url, name) in self._recent:
                raise ClientError("this is not HTTP", next="send HTTP/1.1 as RFC 9112 has it")

    # -- what the parser calls ----------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A head begins."""
        self.is_partial = True
        self.began_s = self._shared.now_s
        self.head = None
        self._head_bytes = 0
        self._url = b""
        self._headers = []
        self._remembered = ()
        self._body = bytearray()

    def on_url(self, url: bytes) -> None:
        """Gather the target; it may come in pieces."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Gather a header; a trailer says nothing that is needed."""
        if self.head is None:
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Read the head, and refuse what is unclear or too large before its body is read."""
        parser, shared = self._parser, self._shared
        self._check_head(len(self._url) + sum(len(name) + len(value) + 4 for name, value in self._headers))
        keep_alive = parser.should_keep_alive()
        if parser.should_upgrade():
            if parser.get_method() != b"CONNECT":
                return  # it is read again, without its offer
            keep_alive, self.tunnel = False, True  # what follows is meant for a tunnel that there is not
        version = parser.get_http_version()
        method, keys = parser.get_method(), shared.keys if self._visitor is None else self._visitor.callers
        self._check_protocol(method)
        head = read_head(shared.routes, method, self._url, self._headers, version, keep_alive, keys, shared.told,
                         with_priority=shared.limits.priority_header)  # fmt: skip
        self.head = head
        check_framing(version, self._headers)
        if head.body_bytes > shared.limits.body_bytes_max:
            raise BodyTooLargeError(f"the body is over {shared.limits.body_bytes_max} bytes", next="send fewer a call")
        if head.expects_continue and head.body_bytes:
            if head.fault is not None:
                raise head.fault  # now: the client waits with its body
            self._messages.append(Message(head, None))
        if self._raw and keep_alive and head.fault is None and head.body_bytes >= 0 and not head.expects_continue:
            self._remembered = tuple((name.lower(), value) for name, value in self._headers)
        else:
            self._raw = b""

    def on_body(self, body: bytes) -> None:
        """Gather the body, up to the limit."""
        limit = self._shared.limits.body_bytes_max
        if len(self._body) + len(body) > limit:
            raise BodyTooLargeError(f"the body is over {limit} bytes")
        self._body += body

    def on_message_complete(self) -> None:
        """A request is whole."""
        self.is_partial = False
        if self.head is not None:
            self._messages.append(Message(self.head, bytes(self._body), self._raw, self._remembered))
            self._body = bytearray()
        self._raw = b""


def _error_of(error: httptools.HttpParserCallbackError) -> ServingError:
    """Return what a callback of the parser raised; what is no serving error is a fault of ours."""
    if isinstance(error.__context__, ServingError):
        return error.__context__.bare()  # which would hold the head that the fault is in
    structlog.get_logger().error("request failed", error=repr(error.__context__), exc_info=error)
    return ServerError("the request could not be read", next="see the server's log")
