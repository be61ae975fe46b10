"""A batch that finds all it needs in memory is not made a task; one that waits is carried on by one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
import uvloop

from tailrace.codecs.offer import Offer
from tailrace.compile.compiler import compile_plan
from tailrace.deadline import NS_PER_S, MonotonicClock
from tailrace.engine import Engine
from tailrace.features.cache import CacheLimits
from tailrace.features.cached_retrieval import CachedRetrieval
from tailrace.features.stores.memory import MemoryStore
from tailrace.loop_load import LoopLoad
from tailrace.pipeline import Pipeline
from tailrace.server.eager_loop import ENDED, EagerLoop
from tailrace.server.endpoint import Endpoint
from tailrace.testing import TestCall, _Transport

BODY = b'{"transaction_id":"t1","customer_id":1,"terminal_id":"T1","amount":50.0,"time":"2026-01-02T03:04:05Z"}'


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def runner(request: pytest.FixtureRequest) -> Iterator[asyncio.Runner]:
    """Yield a runner on each kind of loop."""
    with asyncio.Runner(loop_factory=request.param) as runner:
        yield runner


def test_coroutine_that_does_not_wait_is_no_task(runner: asyncio.Runner) -> None:
    """It has run when `create_task` returns, and its callbacks are called at once."""

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        done: list[Any] = []

        async def run() -> None:
            done.append("ran")

        task = EagerLoop(loop).create_task(run())
        assert done == ["ran"]
        assert task is ENDED
        task.add_done_callback(done.append)
        assert done == ["ran", task]
        assert asyncio.all_tasks(loop) == {asyncio.current_task()}

    runner.run(scenario())


def test_coroutine_that_waits_is_carried_on(runner: asyncio.Runner) -> None:
    """It goes on with each result, in a task, to its end; futures, sleeps and turns of the loop are all waits."""

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        first, second = loop.create_future(), loop.create_future()
        got: list[Any] = []

        async def run() -> None:
            got.append(await first)
            await asyncio.sleep(0)
            got.append(await second)
            await asyncio.sleep(0.001)
            got.append(asyncio.current_task())

        task = EagerLoop(loop).create_task(run())
        first.set_result(1)  # before the task has begun
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        second.set_result(2)
        await task
        assert got == [1, 2, task]

    runner.run(scenario())


def test_coroutine_that_waits_is_told_of_errors_and_cancelled(runner: asyncio.Runner) -> None:
    """What goes wrong where it waits is raised in it, as a task would; what it raises is its task's."""

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        told: list[BaseException] = []

        async def run(future: asyncio.Future[None]) -> None:
            try:
                await future
            except BaseException as error:
                told.append(error)
                raise

        failing, cancelled = loop.create_future(), loop.create_future()
        tasks = [EagerLoop(loop).create_task(run(future)) for future in (failing, cancelled)]
        await asyncio.sleep(0)
        failing.set_exception(ValueError("of what it waits for"))
        tasks[1].cancel()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(each) for each in found] == [type(each) for each in told] == [ValueError, asyncio.CancelledError]
        assert cancelled.cancelled()

    runner.run(scenario())


class NetworkStore(MemoryStore):
    """A store that waits for a turn of the loop."""

    network = True  # type: ignore[misc]

    async def fetch(self, keys: Any, deadline_ns: int) -> list[bytes | None]:
        """Return the rows a turn later."""
        await asyncio.sleep(0)
        return await super().fetch(keys, deadline_ns)


class CountingLoop(EagerLoop):
    """An eager loop that counts the batches it was given, and those of which it made no task."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.batches = self.ended = 0

    def create_task(self, coroutine: Coroutine[Any, Any, None], /) -> Any:
        """Count."""
        task = super().create_task(coroutine)
        self.batches += 1
        self.ended += task is ENDED
        return task


def test_batch_of_cached_rows_is_answered_in_its_tick(
    runner: asyncio.Runner, pipeline_of: Callable[[str], Pipeline]
) -> None:
    """Through the engine that serves: the first batch waits for the store in a task; the next ends at once."""

    async def scenario() -> None:
        clock = MonotonicClock()
        plan = compile_plan(pipeline_of("payment"), NetworkStore({}), clock=clock)
        plan.features.keep_rows(CacheLimits(bytes_max=1 << 20, ttl_ns=60 * NS_PER_S, stale_ns=0))
        assert isinstance(plan.features.retrieval, CachedRetrieval)
        loop = CountingLoop(asyncio.get_running_loop())
        engine = Engine(plan, LoopLoad(loop), [], clock, loop)
        endpoint = Endpoint(engine, Offer(plan.pipeline.request, array_max=10))
        answers = []
        for ended in (0, 1, 2):
            call = TestCall(_Transport(), None, None, 0, 0, 1)
            assert endpoint.accept(call, BODY, 10 * NS_PER_S) is None
            while call.answer is None:
                await asyncio.sleep(0)
            answers.append(call.answer)
            assert (loop.batches, loop.ended) == (ended + 1, ended)
            assert engine.calls_waiting == 0
        assert len(set(answers)) == 1
        plan.close()

    runner.run(scenario())
