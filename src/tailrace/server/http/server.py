"""The HTTP server of one loop: makes connections, delivers batches to them, and looks after them once a second."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, cast

from tailrace.batch import Batch, Call
from tailrace.errors import ServingError
from tailrace.loop_load import LoopLoad
from tailrace.refusals import SHED
from tailrace.server.endpoint import Routes
from tailrace.server.http.connection import Connection
from tailrace.server.http.framing import GZIP_BYTES_MIN
from tailrace.server.http.limits import HttpLimits
from tailrace.server.http.outgoing import HttpCall
from tailrace.server.http.shared import Shared
from tailrace.server.request_ids import RequestIds, id_in_body

_is_plain = attrgetter("is_plain")


class HttpServer:
    """A transport over HTTP/1.1. Called, it makes the protocol of a new connection. release: that it serves.

    ids: names the calls whose callers do not, where that is wanted. deliver: see `_deliver`, or `_deliver_named` where
    calls are named, and `_deliver_last` once the server drains.
    """

    def __init__(
        self,
        routes: Routes,
        limits: HttpLimits,
        load: LoopLoad,
        count_failure: Callable[[type[ServingError]], None],
        release: bytes = b"",
        ids: RequestIds | None = None,
    ) -> None:
        self.shared = Shared(self, routes, limits, load, count_failure, release)
        self._ids = self.shared.ids = ids
        self.deliver: Callable[[Batch, Sequence[int]], None] = self._deliver if ids is None else self._deliver_named

    def __call__(self) -> Connection:
        """Make the protocol of a new connection."""
        return Connection(self.shared)

    @property
    def connections(self) -> list[Connection]:
        """The open connections, with those over the limit."""
        reserve = self.shared.reserve
        return [*self.shared.connections, *(() if reserve is None else reserve.connections)]

    def _deliver(self, batch: Batch, places: Sequence[int]) -> None:
        """Send the bodies of a batch, in one write to every connection."""
        shared = self.shared
        calls: Sequence[Any] = batch.calls  # a cast is a call too
        bodies = batch.bodies
        if len(places) < len(calls):
            calls, bodies = [calls[place] for place in places], [bodies[place] for place in places]
        compress = max(map(len, bodies)) > GZIP_BYTES_MIN
        if batch.errors or compress or not batch.content_type:
            self._deliver_with_care(batch, places, compress=compress)
            return
        waiting = []
        for call, place, answer in zip(calls, places, shared.framing.ok(bodies, batch.content_type), strict=True):
            connection = call.connection
            if call.is_plain and len(connection.calls) == 1:
                connection.answer_only(answer)
            else:  # it asks for more than a body, or pipelines, or is gone
                call.answer = answer if call.is_plain else self._answer(call, batch, place, compress=False)
                waiting.append(call)
        if waiting:
            _flush(waiting)

    def _deliver_named(self, batch: Batch, places: Sequence[int]) -> None:
        """Deliver a batch as `_deliver` does, each answer with the id of its call."""
        assert self._ids is not None
        calls: Sequence[Any] = batch.calls
        bodies = batch.bodies
        if len(places) < len(calls):
            calls, bodies = [calls[place] for place in places], [bodies[place] for place in places]
        compress = max(map(len, bodies)) > GZIP_BYTES_MIN
        if batch.errors or compress or not batch.content_type or not all(map(_is_plain, calls)):
            self._name(batch, calls)
            self._deliver_with_care(batch, places, compress=compress)
            return
        ids, waiting = self._ids.take_many(len(calls)), []
        answers = self.shared.framing.named(bodies, batch.content_type, ids)
        for call, name, answer in zip(calls, ids, answers, strict=True):
            call.given_id = name
            connection = call.connection
            if len(connection.calls) == 1:
                connection.answer_only(answer)
            else:  # it pipelines, or is gone
                call.answer = answer
                waiting.append(call)
        _flush(waiting)

    def _name(self, batch: Batch, calls: Sequence[HttpCall]) -> None:
        """Name the calls whose callers have not; over the Open Inference Protocol some have, in the body.

        What is only accepted has an id of its own.
        """
        if self._ids is None or batch.status != 200:
            return
        for call in calls:
            if not call.request_id:
                call.given_id = id_in_body(call.codec).encode() or self._ids.take()

    def _deliver_last(self, batch: Batch, places: Sequence[int]) -> None:
        """Send the bodies of a batch of a server that drains: each answer may end its connection."""
        self._name(batch, [cast(HttpCall, batch.calls[place]) for place in places])
        compress = any(len(batch.bodies[place]) > GZIP_BYTES_MIN for place in places)
        self._deliver_with_care(batch, places, compress=compress)

    def _deliver_with_care(self, batch: Batch, places: Sequence[int], *, compress: bool) -> None:
        """Deliver a batch with failed calls, long answers, several codecs, or the last ones before the server goes."""
        calls = [cast(HttpCall, batch.calls[place]) for place in places]
        for call, place in zip(calls, places, strict=True):
            close = self.shared.draining and call.connection.ends_with(call)
            call.answer = self._answer(call, batch, place, compress=compress, close=close)
        _flush(calls)

    def _answer(self, call: HttpCall, batch: Batch, place: int, *, compress: bool, close: bool = False) -> bytes:
        """Return the whole answer of one call of a batch."""
        assert call.head is not None
        return self.shared.framing.rich(call.head, call.request_id, batch, place, compress=compress, close=close)

    def refuse(self, call: Call, error: ServingError) -> None:
        """Send an error in place of an answer."""
        http_call = cast(HttpCall, call)
        if error is SHED and http_call.is_plain and not self.shared.draining:
            http_call.answer = self.shared.framing.shed
            _flush([http_call])
            return
        close = self.shared.draining and http_call.connection.ends_with(http_call)
        http_call.answer = self.shared.framing.error(http_call.head, error, http_call.request_id, close=close)
        _flush([http_call])

    def sweep(self) -> None:
        """Once a second: renew the Date, close what is idle, too slow to send or too slow to read."""
        shared = self.shared
        shared.now_s += 1
        if shared.reserve is not None:
            shared.reserve.now_s = shared.now_s
        shared.framing.renew_date()
        if self._ids is not None:
            self._ids.renew()
        now_ns = time.monotonic_ns()
        for connection in self.connections:
            connection.check_age(shared.now_s, now_ns)

    def drain(self) -> None:
        """Take no more work than is under way: every further answer closes its connection."""
        self.shared.draining = True
        self.deliver = self._deliver_last


def _flush(calls: Sequence[HttpCall]) -> None:
    """Write the answers that are next in line on their connections."""
    for call in calls:
        pending = call.connection.calls
        if pending and pending[0] is call:
            call.connection.flush()
