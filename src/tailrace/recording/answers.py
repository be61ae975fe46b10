"""Recorded requests sent again, one after the other, over one connection; and what is answered."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Final

from tailrace.errors import SetupError
from tailrace.recording.file import RecordedCall
from tailrace.recording.place import Place
from tailrace.recording.redaction import SECRET
from tailrace.recording.stream import Kind, MessageStream, fields_of
from tailrace.recording.times import layers_of

TIMEOUT_S: Final = 30.0
READ_BYTES: Final = 64 << 10
_REWRITTEN: Final = (b"content-length", b"transfer-encoding", b"x-trace", b"expect")


@dataclass(slots=True)
class Answer:
    """What a request is answered now; status 0: nothing. Times in ms, from its first byte sent."""

    status: int = 0
    head: bytes = b""
    body: bytes = b""
    first_ms: float = 0.0
    whole_ms: float = 0.0

    @property
    def release(self) -> str:
        """The release that answered, where the server tells it."""
        return fields_of(self.head).get(b"x-release", b"").decode("latin-1")

    @property
    def layers(self) -> dict[str, float]:
        """What it took of which layer, where the server tells it."""
        return layers_of(fields_of(self.head).get(b"server-timing", b""))


class Sender:
    """Sends requests to a server. headers: sent with each, as `Name: value`. ca_file: see `Place`.

    Raises SetupError for no URL of a server.
    """

    def __init__(self, url: str, headers: Sequence[str] = (), *, ca_file: str | None = None) -> None:
        self._url = url
        self._place = Place.of(url, ca_file)
        self._headers = [header.encode("latin-1", "replace") for header in headers]
        self._sock: socket.socket | None = None

    def __enter__(self) -> Sender:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def ask(self, call: RecordedCall) -> Answer:
        """Send a recorded request; return its answer. Raises SetupError where the server cannot be reached."""
        message = message_of(call, self._headers)
        is_new = self._sock is None
        answer = self._exchange(message, is_head=call.head.startswith(b"HEAD "))
        if not answer.status and not is_new:  # the server had closed the connection meanwhile
            answer = self._exchange(message, is_head=call.head.startswith(b"HEAD "))
        return answer

    def _exchange(self, message: bytes, *, is_head: bool) -> Answer:
        sock = self._connect()
        stream, answer = MessageStream(is_answer=True), Answer()
        stream.expect_body = not is_head
        began_s, is_whole = time.monotonic(), False
        with suppress(OSError):  # what came until then is told
            sock.sendall(message)
            while data := sock.recv(READ_BYTES):
                answer.first_ms = answer.first_ms or (time.monotonic() - began_s) * 1_000
                if is_whole := any(_take(answer, part.kind, part.raw, part.content) for part in stream.parts(data)):
                    break
            else:
                for part in stream.end():
                    _take(answer, part.kind, part.raw, part.content)
        answer.whole_ms = (time.monotonic() - began_s) * 1_000
        if not is_whole or fields_of(answer.head).get(b"connection", b"").lower() == b"close":
            self._close()
        return answer

    def _connect(self) -> socket.socket:
        if self._sock is None:
            try:
                place = self._place
                self._sock = socket.create_connection((place.host, place.port), TIMEOUT_S)
                self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if place.tls is not None:
                    self._sock = place.tls.wrap_socket(self._sock, server_hostname=place.host)
            except OSError as error:
                self._close()
                raise SetupError(f"cannot be reached: {error.strerror or error}", where=self._url,
                                 next="start it, or name a file to have one started") from error  # fmt: skip
        return self._sock

    def _close(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None


def message_of(call: RecordedCall, headers: Sequence[bytes] = ()) -> bytes:
    """Return the bytes of a recorded request: its own, but for secrets, which `headers` may stand in for.

    What was no HTTP is sent as it was.
    """
    if not call.head.endswith(b"\r\n\r\n"):
        return call.head
    line, *lines = call.head[:-4].split(b"\r\n")
    own = {header.partition(b":")[0].strip().lower() for header in headers}
    kept = [each for each in lines if _is_kept(each, own)]
    body = call.body or b""
    if call.is_chunked:
        kept.append(b"Transfer-Encoding: chunked")
        body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n"
    elif body or b"content-length" in fields_of(call.head):
        kept.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join([line, *kept, *headers, b"X-Trace: 1", b"\r\n"]) + body


def _is_kept(line: bytes, own: set[bytes]) -> bool:
    """Return whether a line of a head is sent as it was."""
    name, _, value = line.partition(b":")
    return name.strip().lower() not in {*_REWRITTEN, *own} and value.strip() != SECRET


def _take(answer: Answer, kind: Kind, raw: bytes, content: bytes) -> bool:
    """Take in a part of an answer; return whether it is the end."""
    if kind is Kind.HEAD and not raw.startswith(b"HTTP/1.1 1"):
        words = raw.split(b" ", 2)
        answer.head, answer.status = raw, int(words[1][:3]) if words[1][:3].isdigit() else 0
    answer.body += content
    return kind is Kind.END
