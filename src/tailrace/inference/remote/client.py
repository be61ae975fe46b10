"""Asks a remote model for the scores of some rows: encodes, sends, checks the answer, and counts what went wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tailrace.breaker import Breaker
from tailrace.deadline import NS_PER_MS, NS_PER_S, Clock
from tailrace.inference.predictor import Feeds
from tailrace.inference.remote.address import RemoteAddress
from tailrace.inference.remote.failure import RemoteError, RemoteFault
from tailrace.inference.remote.pool import RemotePool
from tailrace.inference.remote.protocol import Asked, RemoteProtocol, check_coding, refused, unreadable

PROBE_SLACK_NS: Final = 100 * NS_PER_MS
"""A probe of the breaker that has taken so much longer than a call may take is lost."""


class RemoteClient:
    """One remote model. Used from one event loop at a time.

    address, protocol: where and how it is asked. authorization: a header's value. call_ns_max: what a call may take.
    failures: calls without scores, by reason; failure: the last one. observe_call: is called for each call with how
    long it took.
    """

    def __init__(
        self,
        address: RemoteAddress,
        protocol: RemoteProtocol,
        pool: RemotePool,
        clock: Clock,
        *,
        authorization: str | None = None,
        call_ns_max: int = 0,
    ) -> None:
        self.url = address.url
        self.pool = pool
        self.protocol = protocol
        self.breaker = Breaker(clock, lost_ns=call_ns_max + PROBE_SLACK_NS)
        self.failures: Counter[RemoteFault] = Counter()
        self.failure: RemoteError | None = None
        self.observe_call: Callable[[int], None] = _observe_nothing
        self._head = address.head(protocol.path, protocol.content_type, authorization)
        self._now_ns = clock.now_ns

    async def infer(
        self, feeds: Feeds, rows: int, deadline_ns: int, *, fair_ns: float = 0, head: bytes = b""
    ) -> NDArray[np.float64]:
        """Return the scores of some rows, (rows,) or (rows, classes); a score may be NaN.

        deadline_ns: monotonic. fair_ns: with less time than this a server that is late does not count as broken.
        head: more lines of the request's head, each with its end.
        Raises RemoteError, at the deadline at the latest; it is counted.
        """
        began_ns = self._now_ns()
        left_ns = deadline_ns - began_ns
        try:
            if left_ns <= 0:
                raise RemoteError(RemoteFault.LATE, "there was no time left to ask")
            if not self.breaker.allows():
                raise RemoteError(RemoteFault.LEFT_ALONE, f"the server is left alone: {self.failure}")
            asked = self.protocol.encode(feeds, rows, left_ns)
            left_ns = deadline_ns - self._now_ns()  # that of many rows takes milliseconds
            if left_ns <= 0:
                raise RemoteError(RemoteFault.LATE, "there was no time left to ask when the rows were encoded")
            scores = await self._ask(asked, rows, left_ns, head)
        except RemoteError as error:
            self._note(error, began_ns, left_ns, fair_ns)
            raise
        ended_ns = self._now_ns()
        self.breaker.note(ended_ns, is_failure=False)
        self.observe_call(ended_ns - began_ns)
        return scores

    def was_late(self, error: RemoteError) -> bool:
        """Return whether a call gave no score for lack of time: its own, or of the calls that opened the breaker."""
        if error.reason is RemoteFault.LEFT_ALONE and self.failure is not None:
            error = self.failure
        return error.reason is RemoteFault.LATE

    def note_refused(self) -> None:
        """Note that a server has refused a batch and scored no row of it: it is broken, as far as is known."""
        self.breaker.note(self._now_ns(), is_failure=True)

    def count_late(self, calls: int) -> None:
        """Count calls that were not begun by their deadline, which says nothing of the server."""
        self.failures[RemoteFault.LATE] += calls

    def close(self) -> None:
        """Let go of the connections."""
        self.pool.close()

    async def _ask(self, asked: Asked, rows: int, left_ns: int, head: bytes) -> NDArray[Any]:
        protocol = self.protocol
        request = b"%b%d\r\n%b%b\r\n%b" % (self._head, len(asked.body), asked.head, head, asked.body)
        reply = await self.pool.ask(request, left_ns / NS_PER_S)
        if reply.status != 200:
            raise refused(reply, of_rows=protocol.refuses_rows(reply))
        check_coding(reply)
        try:
            return protocol.decode(reply, rows, asked.id)
        except RemoteError:
            raise
        except Exception as error:  # whatever an answer holds, it costs a batch its scores and no more
            raise unreadable(f"{type(error).__name__}: {error}") from error

    def _note(self, error: RemoteError, began_ns: int, left_ns: int, fair_ns: float) -> None:
        """Count a call without scores, and tell the breaker where it says something of the server."""
        self.failures[error.reason] += 1
        if error.reason is RemoteFault.LEFT_ALONE or left_ns <= 0:
            return
        self.failure = RemoteError(error.reason, str(error), error.status)  # without its traceback
        ended_ns = self._now_ns()
        self.observe_call(ended_ns - began_ns)
        is_fair = left_ns >= fair_ns or error.reason is not RemoteFault.LATE
        if is_fair and error.reason is not RemoteFault.BUSY and not error.of_rows:  # else who asked looks further
            self.breaker.note(ended_ns, is_failure=True)


def _observe_nothing(took_ns: int) -> None:
    """Take the place of an observer where nobody counts."""
