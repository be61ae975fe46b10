"""The client for threads: a call blocks until its answer or the end of its budget."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar, overload
from weakref import WeakSet

from tailrace.client.answer import Answer
from tailrace.client.endpoints import SHED, Course, Endpoint, Endpoints, late
from tailrace.client.failure import ExchangeError
from tailrace.client.options import Options, budget_ns_of
from tailrace.client.parts import PART_ROWS, one_each, parts_of
from tailrace.client.pool import Pool
from tailrace.client.wire import Wire
from tailrace.client.wording import Wording, Words
from tailrace.deadline import NS_PER_MS

HEDGE_DIAL_NS_MAX: Final = 20 * NS_PER_MS
"""What a second connection may take to be made: the first one is not read meanwhile."""

T = TypeVar("T")
_CLIENTS: Final[WeakSet[Client]] = WeakSet()
"""Those of this process, for a fork."""


class Client:
    """Calls the pipelines of one server, or of several that serve the same. Any thread may call.

        with Client("http://127.0.0.1:8080", Options(budget="50ms")) as client:
            answer = client.predict("fraud", {"customer_id": 4021, "amount": 12.5})

    urls: "http://host:port", "https://host:port", "unix:/path". Raises SetupError for addresses and options that
    cannot be meant, and in a call the error that the server tells, or its like: UnavailableError where nothing answers,
    DeadlineExceededError at the end of the budget, ServerError for an answer that cannot be read.
    """

    def __init__(self, urls: str | Sequence[str], options: Options | None = None) -> None:
        self._options = options = options or Options()
        self._endpoints = Endpoints(urls, options)
        self._wording = Wording(options)
        self._budget_ns = budget_ns_of(options.budget)
        self._pools = {
            endpoint: Pool(endpoint, connections_max=options.connections_max, answer_bytes_max=options.answer_bytes_max)
            for endpoint in self._endpoints.all
        }
        _CLIENTS.add(self)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; those in use as soon as their calls end."""
        for pool in self._pools.values():
            pool.close()

    def forget(self) -> None:
        """Leave all connections to the process that this one was forked from: their answers are its own."""
        self._endpoints.unlock()
        for pool in self._pools.values():
            pool.forget()

    @overload
    def predict(
        self,
        pipeline: str,
        request: Any,
        *,
        into: type[T],
        budget: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> T: ...

    @overload
    def predict(
        self,
        pipeline: str,
        request: Any,
        *,
        into: None = None,
        budget: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any: ...

    def predict(
        self,
        pipeline: str,
        request: Any,
        *,
        into: Any = None,
        budget: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """Return the answer to a request: a dict or a msgspec struct, or a list of them for a list of answers.

        into: the type of the answer, which is checked (`list[Score]` for a list); None for dicts and lists. budget: of
        this call, else the client's. headers: of this call beside the client's, `traceparent` for example. Raises
        ServingError.
        """
        words = self._wording.words(pipeline, request, into, headers)
        budget_ns = self._budget_ns if budget is None else budget_ns_of(budget)
        course = Course(self._endpoints, budget_ns, is_repeatable=self._options.repeatable)
        try:
            endpoint, answer = self._ask(course, words)
        except ExchangeError as failure:
            raise failure.error from None
        return words.value(answer, endpoint.address.url)

    def predict_each(
        self,
        pipeline: str,
        requests: Iterable[Any],
        *,
        into: Any = None,
        budget: str | None = None,
        rows: int = PART_ROWS,
    ) -> Iterator[Any]:
        """Yield the answer to each request, in order, while the batch goes out in parts of `rows` requests.

        into: the type of one answer. budget: of each part. Raises ServingError at the part that cannot be answered.
        """
        kind = list[Any] if into is None else list[into]
        for part in parts_of(requests, rows):
            yield from one_each(self.predict(pipeline, part, into=kind, budget=budget), len(part), pipeline)

    # -- one call -------------------------------------------------------------------------------------------------

    def _ask(self, course: Course, words: Words) -> tuple[Endpoint, Answer]:
        while True:
            endpoint = course.choose()
            began_ns = time.monotonic_ns()
            try:
                answer = self._exchange(endpoint, course, words)
            except ExchangeError as failure:
                time.sleep(course.failed(endpoint, began_ns, failure))
                continue
            wait_s = course.answered(endpoint, began_ns, answer)
            if wait_s is None:
                return endpoint, answer
            time.sleep(wait_s)

    def _exchange(self, endpoint: Endpoint, course: Course, words: Words) -> Answer:
        """Return one server's answer, or with hedging that of the quicker of two."""
        pool, is_read = self._pools[endpoint], False
        wire = pool.take(course.ends_ns)
        try:
            self._send(wire, endpoint, course, words)
            usual_ns = self._endpoints.usual.p95_ns if self._options.hedge else None
            if usual_ns is None:
                answer = wire.read(course.ends_ns)
                is_read = True
                return answer
            answer, is_read = self._hedged(wire, endpoint, course, words, usual_ns)
            return answer
        finally:
            pool.give_back(wire, is_read=is_read)

    def _send(self, wire: Wire, endpoint: Endpoint, course: Course, words: Words) -> None:
        left_ns = course.ends_ns - time.monotonic_ns()
        if left_ns <= 0:
            raise late(endpoint)
        wire.send(words.message(endpoint.address, left_ns), course.ends_ns)

    def _hedged(
        self, wire: Wire, endpoint: Endpoint, course: Course, words: Words, usual_ns: int
    ) -> tuple[Answer, bool]:
        """Return this connection's answer, or a second one's after the usual time; and whether it is the first's."""
        asks_at_ns = time.monotonic_ns() + usual_ns
        if asks_at_ns >= course.ends_ns:
            return wire.read(course.ends_ns), True
        try:
            return wire.read(asks_at_ns), True
        except ExchangeError as failure:
            if not failure.is_late:
                raise
        if not self._endpoints.may_hedge():
            return wire.read(course.ends_ns), True
        try:
            other = self._endpoints.choose((endpoint,))
            pool = self._pools[other]
            second = pool.take(min(course.ends_ns, time.monotonic_ns() + HEDGE_DIAL_NS_MAX))
        except ExchangeError:
            return wire.read(course.ends_ns), True
        is_read = False
        try:
            self._send(second, other, course, words)
            answer, is_read = _first(wire, second, endpoint, course.ends_ns)
            return answer, not is_read
        finally:
            pool.give_back(second, is_read=is_read)


def _first(wire: Wire, second: Wire, endpoint: Endpoint, ends_ns: int) -> tuple[Answer, bool]:
    """Return the first whole answer, and whether it is the second's. What fails or sheds leaves it to the other."""
    wires = {wire.descriptor: wire, second.descriptor: second}
    poll = select.poll()
    for descriptor in wires:
        poll.register(descriptor, select.POLLIN)
    while True:
        left_ns = ends_ns - time.monotonic_ns()
        if left_ns <= 0 or not (ready := poll.poll(left_ns / NS_PER_MS)):
            raise late(endpoint)
        for descriptor, _ in ready:
            try:
                answer = wires[descriptor].read_some()
            except ExchangeError:
                if len(wires) == 1:
                    raise
            else:
                if answer is None:
                    continue
                if answer.status != SHED or len(wires) == 1:
                    return answer, wires[descriptor] is second
            poll.unregister(descriptor)
            del wires[descriptor]


def _forget_all() -> None:
    """Have each client of a forked process connect anew."""
    for client in list(_CLIENTS):
        client.forget()


os.register_at_fork(after_in_child=_forget_all)
