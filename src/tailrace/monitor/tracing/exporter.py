"""Sends spans to where traces are kept: OTLP over HTTP, in a thread of its own.

To hand spans over never waits and never raises. What cannot be sent is tried again, and then lost, which is counted.
"""

from __future__ import annotations

import gzip
import http.client
import random
import ssl
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final, NamedTuple

from tailrace.monitor.metrics import SPAN_OUTCOMES
from tailrace.monitor.tracing.endpoint import TraceEndpoint
from tailrace.monitor.tracing.otlp import encode, rejected_in
from tailrace.monitor.tracing.spans import Span
from tailrace.version import VERSION

SPANS_MAX: Final = 16_384
"""Spans that wait; of more the oldest calls' are dropped."""
BATCH_SPANS_MAX: Final = 512
GATHER_S: Final = 1.0
"""How long spans wait for others, that they may go together."""
TIMEOUT_S: Final = 10.0
TRIES_MAX: Final = 5
BACK_OFF_S: Final = 1.0
BACK_OFF_S_MAX: Final = 30.0
"""Also of what the other end asks for."""
_RETRIED: Final = frozenset((429, 502, 503, 504))
_ANSWER_BYTES_MAX: Final = 64 << 10
CAUSE_CHARACTERS_MAX: Final = 200
"""Of what an endpoint says; it is told once a second."""


class CallSpans(NamedTuple):
    """The spans of one call. resource: of the worker that served it."""

    resource: Mapping[str, Any]
    spans: list[Span]


class RefusedError(Exception):
    """Spans that were not taken. is_final: whether to try again is of no use. wait_s: what the other end asks for."""

    def __init__(self, cause: str, *, is_final: bool = False, wait_s: float = 0.0) -> None:
        super().__init__(cause)
        self.is_final, self.wait_s = is_final, wait_s


class SpanExporter:
    """Sends spans to one endpoint. outcomes: how many became what (`SPAN_OUTCOMES`). fault: why the last were lost."""

    def __init__(
        self, endpoint: TraceEndpoint, *, gather_s: float = GATHER_S, timeout_s: float = TIMEOUT_S,
        back_off_s: float = BACK_OFF_S,
    ) -> None:  # fmt: skip
        self.outcomes: Counter[str] = Counter(dict.fromkeys(SPAN_OUTCOMES, 0))
        self.fault = ""
        self._endpoint = endpoint
        self._gather_s, self._timeout_s, self._back_off_s = gather_s, timeout_s, back_off_s
        self._waiting: deque[CallSpans] = deque()
        self._spans = 0
        self._changed = threading.Condition()
        self._is_closed = False
        self._end_s = float("inf")
        self._connection: http.client.HTTPConnection | None = None
        self._thread: threading.Thread | None = None

    @property
    def waiting(self) -> int:
        """Spans that are not sent yet."""
        return self._spans

    def put(self, found: CallSpans) -> None:
        """Take the spans of a call."""
        with self._changed:
            self._waiting.append(found)
            self._spans += len(found.spans)
            while self._spans > SPANS_MAX:
                self._lose("dropped", len(self._take().spans), "the endpoint does not keep up")
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="traces", daemon=True)
                self._thread.start()
            if len(self._waiting) == 1 or self._spans >= BATCH_SPANS_MAX:
                self._changed.notify()

    def count_limited(self, calls: int) -> None:
        """Count calls of which no spans were made."""
        self.outcomes["limited"] += calls

    def close(self, within_s: float) -> None:
        """Send what is left, for so long, and end; what is not sent by then is lost."""
        with self._changed:
            self._is_closed, self._end_s = True, time.monotonic() + within_s
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(within_s)
        with self._changed:
            while self._waiting:
                self._lose("dropped", len(self._take().spans), "the server has ended")

    def _take(self) -> CallSpans:
        """Take the oldest spans; called with the lock held."""
        found = self._waiting.popleft()
        self._spans -= len(found.spans)
        return found

    def _lose(self, outcome: str, spans: int, cause: str) -> None:
        self.outcomes[outcome] += spans
        self.fault = cause

    def _work(self) -> None:
        """Send spans until there are no more and it is closed."""
        while batch := self._gather():
            self._send(batch)
        if self._connection is not None:
            self._connection.close()

    def _gather(self) -> list[CallSpans]:
        """Return what is sent next; nothing at the end."""
        batch: list[CallSpans] = []
        spans = 0
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_closed)
            self._changed.wait_for(lambda: self._spans >= BATCH_SPANS_MAX or self._is_closed, self._gather_s)
            while self._waiting and (not batch or spans + len(self._waiting[0].spans) <= BATCH_SPANS_MAX):
                batch.append(self._take())
                spans += len(batch[-1].spans)
        return batch

    def _send(self, batch: list[CallSpans]) -> None:
        """Send some spans, trying again where that may help."""
        spans = sum(len(each.spans) for each in batch)
        try:
            body = gzip.compress(encode([(each.resource, each.spans) for each in _by_resource(batch)]), 1)
        except Exception as error:  # of what a request holds, say: the thread is to live
            self._lose("failed", spans, repr(error))
            return
        for tries in range(1, TRIES_MAX + 1):
            try:
                rejected, why = self._post(body)
            except RefusedError as refusal:
                if refusal.is_final or tries == TRIES_MAX or not self._wait(tries, refusal.wait_s):
                    self._lose("failed", spans, str(refusal))
                    return
                self.fault = str(refusal)
            else:
                rejected = min(rejected, spans)
                self.outcomes["exported"] += spans - rejected
                self.fault = ""
                if rejected:
                    self._lose("rejected", rejected, why[:CAUSE_CHARACTERS_MAX] or "no cause is told")
                return

    def _wait(self, tries: int, asked_s: float) -> bool:
        """Wait before the next try; return whether there is time for it."""
        back_off_s = self._back_off_s * 2 ** (tries - 1) * random.uniform(0.5, 1.0)
        wait_s = min(max(back_off_s, asked_s), BACK_OFF_S_MAX)
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed, wait_s)
            return not self._is_closed

    def _post(self, body: bytes) -> tuple[int, str]:
        """Post a body; return how many spans were not taken of it all the same, and why. Raises RefusedError."""
        connection = self._connection = self._connection or self._connect()
        left_s = min(self._timeout_s, max(self._end_s - time.monotonic(), 0.05))
        connection.timeout = left_s
        if connection.sock is not None:
            connection.sock.settimeout(left_s)
        headers = self._endpoint.headers | {
            "Content-Type": "application/x-protobuf", "Content-Encoding": "gzip",
            "User-Agent": f"Tailrace-OTLP-Exporter/{VERSION}",
        }  # fmt: skip
        try:
            connection.request("POST", self._endpoint.path, body, headers)
            answer = connection.getresponse()
            told = answer.read(_ANSWER_BYTES_MAX)
        except (OSError, ValueError, http.client.HTTPException) as error:  # ValueError: of a name that is no host's
            self._let_go()
            raise RefusedError(
                f"{self._endpoint.host}:{self._endpoint.port}: {error or type(error).__name__}"
            ) from None
        if not answer.isclosed():  # longer than any answer of the protocol
            self._let_go()
        if answer.status in _RETRIED:
            raise RefusedError(f"it answers {answer.status}", wait_s=asked_s(answer.getheader("Retry-After")))
        if not 200 <= answer.status < 300:
            raise RefusedError(f"it answers {answer.status}", is_final=True)
        return rejected_in(told)

    def _connect(self) -> http.client.HTTPConnection:
        """Return a connection that is opened when it is used."""
        endpoint = self._endpoint
        if endpoint.is_secure:
            return http.client.HTTPSConnection(endpoint.host, endpoint.port, context=ssl.create_default_context())
        return http.client.HTTPConnection(endpoint.host, endpoint.port)

    def _let_go(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def asked_s(header: str | None, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> float:
    """Return how long a `Retry-After` asks to wait, in seconds; 0 for none, and for one that is not well formed."""
    if not header:
        return 0.0
    if header.isascii() and header.strip().isdigit():
        return float(header)
    try:
        return max((parsedate_to_datetime(header) - now()).total_seconds(), 0.0)
    except (ValueError, TypeError):
        return 0.0


def _by_resource(batch: list[CallSpans]) -> list[CallSpans]:
    """Return the spans of calls, together by their resource."""
    found: dict[int, CallSpans] = {}
    for each in batch:
        found.setdefault(id(each.resource), CallSpans(each.resource, [])).spans.extend(each.spans)
    return list(found.values())
