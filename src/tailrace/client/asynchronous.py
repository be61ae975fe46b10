"""The client for an event loop: many calls wait at once, each until its answer or the end of its budget."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar, overload

from tailrace.client.answer import Answer
from tailrace.client.endpoints import SHED, Course, Endpoint, Endpoints, late
from tailrace.client.failure import ExchangeError
from tailrace.client.links import Links
from tailrace.client.options import Options, budget_ns_of
from tailrace.client.parts import PART_ROWS, one_each, parts_of
from tailrace.client.wording import Wording, Words
from tailrace.deadline import NS_PER_S

PARTS_MAX: Final = 4
"""Parts of a large batch under way at once."""

T = TypeVar("T")


class AsyncClient:
    """Calls the pipelines of one server, or of several that serve the same, on one event loop.

        async with AsyncClient(["http://a:8080", "http://b:8080"], Options(budget="50ms")) as client:
            answer = await client.predict("fraud", {"customer_id": 4021, "amount": 12.5})

    Its arguments and errors are those of `Client`.
    """

    def __init__(self, urls: str | Sequence[str], options: Options | None = None) -> None:
        self._options = options = options or Options()
        self._endpoints = Endpoints(urls, options)
        self._wording = Wording(options)
        self._budget_ns = budget_ns_of(options.budget)
        self._links = {
            endpoint: Links(
                endpoint, connections_max=options.connections_max, answer_bytes_max=options.answer_bytes_max
            )
            for endpoint in self._endpoints.all
        }

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; those in use as soon as their calls end."""
        for links in self._links.values():
            links.close()
        await asyncio.sleep(0)  # a transport closes in the turn after

    @overload
    async def predict(
        self,
        pipeline: str,
        request: Any,
        *,
        into: type[T],
        budget: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> T: ...

    @overload
    async def predict(
        self,
        pipeline: str,
        request: Any,
        *,
        into: None = None,
        budget: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any: ...

    async def predict(
        self,
        pipeline: str,
        request: Any,
        *,
        into: Any = None,
        budget: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """Return the answer to a request: as `Client.predict` does."""
        words = self._wording.words(pipeline, request, into, headers)
        budget_ns = self._budget_ns if budget is None else budget_ns_of(budget)
        course = Course(self._endpoints, budget_ns, is_repeatable=self._options.repeatable)
        try:
            endpoint, answer = await self._ask(course, words)
        except ExchangeError as failure:
            raise failure.error from None
        return words.value(answer, endpoint.address.url)

    async def predict_each(
        self,
        pipeline: str,
        requests: Iterable[Any],
        *,
        into: Any = None,
        budget: str | None = None,
        rows: int = PART_ROWS,
    ) -> AsyncIterator[Any]:
        """Yield the answer to each request, in order, while the batch goes out in parts of `rows`, four at once.

        into: the type of one answer. budget: of each part. Raises ServingError at the part that cannot be answered.
        """
        kind = list[Any] if into is None else list[into]
        left = parts_of(requests, rows)
        parts: deque[tuple[int, asyncio.Task[Any]]] = deque()
        try:
            while True:
                while len(parts) < PARTS_MAX and (part := next(left, None)):
                    call = self.predict(pipeline, part, into=kind, budget=budget)
                    parts.append((len(part), asyncio.create_task(call)))
                if not parts:
                    return
                size, task = parts.popleft()
                for answer in one_each(await task, size, pipeline):
                    yield answer
        finally:
            await _end([task for _, task in parts])

    # -- one call -------------------------------------------------------------------------------------------------

    async def _ask(self, course: Course, words: Words) -> tuple[Endpoint, Answer]:
        while True:
            endpoint = course.choose()
            began_ns = time.monotonic_ns()
            usual_ns = self._endpoints.usual.p95_ns if self._options.hedge else None
            try:
                if usual_ns is None:
                    answer = await self._exchange(endpoint, course, words)
                else:
                    answer = await self._hedged(endpoint, course, words, usual_ns)
            except ExchangeError as failure:
                await asyncio.sleep(course.failed(endpoint, began_ns, failure))
                continue
            wait_s = course.answered(endpoint, began_ns, answer)
            if wait_s is None:
                return endpoint, answer
            await asyncio.sleep(wait_s)

    async def _exchange(self, endpoint: Endpoint, course: Course, words: Words) -> Answer:
        """Return one server's answer."""
        links, is_read = self._links[endpoint], False
        link = await links.take(course.ends_ns)
        try:
            left_ns = course.ends_ns - time.monotonic_ns()
            if left_ns <= 0:
                raise late(endpoint)
            message = words.message(endpoint.address, left_ns)
            answer = await links.ask(link, message, course.ends_ns)
            is_read = True
            return answer
        finally:
            links.give_back(link, is_read=is_read)

    async def _hedged(self, endpoint: Endpoint, course: Course, words: Words, usual_ns: int) -> Answer:
        """Return the answer of the first exchange, or of a second one that is begun after the usual time."""
        tasks = [asyncio.create_task(self._exchange(endpoint, course, words))]
        try:
            done, _ = await asyncio.wait(tasks, timeout=usual_ns / NS_PER_S)
            if not done and self._endpoints.may_hedge():
                with contextlib.suppress(ExchangeError):  # no other may be asked: the first one is waited for
                    other = self._endpoints.choose((endpoint,))
                    tasks.append(asyncio.create_task(self._exchange(other, course, words)))
            left = set(tasks)
            while len(left) > 1:
                done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    if task.exception() is None and (task.result().status != SHED or not left):
                        return task.result()
            return await (left or done).pop()
        finally:
            await _end(tasks)


async def _end(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Cancel what is under way, and come back when it has ended; its errors are nobody's."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.gather(*tasks, return_exceptions=True)
