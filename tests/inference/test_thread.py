from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest
import uvloop

from tailrace.deadline import NS_PER_MS, NS_PER_S
from tailrace.inference.thread import InferenceThread


def soon(duration_ns: int) -> int:
    """Return a deadline."""
    return time.monotonic_ns() + duration_ns


@pytest.fixture
def thread() -> Iterator[InferenceThread]:
    """Start an inference thread and end it."""
    inference = InferenceThread(outstanding_max=2)
    yield inference
    assert inference.close(10)


def test_result_comes_from_another_thread(thread: InferenceThread) -> None:
    """The loop's thread stays free; arguments and results pass through."""

    async def main() -> tuple[int, str]:
        name = await thread.run(lambda: threading.current_thread().name, deadline_ns=soon(10 * NS_PER_S))
        return await thread.run(max, 3, 4, deadline_ns=soon(10 * NS_PER_S)), name

    assert asyncio.run(main()) == (4, "tailrace-inference")
    assert thread.outstanding == 0


def test_error_reaches_the_waiter(thread: InferenceThread) -> None:
    """What the function raises, the caller sees; the thread lives on."""

    async def main() -> int:
        with pytest.raises(ZeroDivisionError):
            await thread.run(lambda: 1 // 0, deadline_ns=soon(10 * NS_PER_S))
        return await thread.run(lambda: 7, deadline_ns=soon(10 * NS_PER_S))

    assert asyncio.run(main()) == 7


def test_late_call_raises_at_its_deadline_while_the_thread_is_stuck(thread: InferenceThread) -> None:
    """The waiter gets its TimeoutError though the call still runs; a queued call that is late never begins."""
    release, began = threading.Event(), []

    async def main() -> None:
        stuck = asyncio.ensure_future(thread.run(release.wait, 60, deadline_ns=soon(20 * NS_PER_MS)))
        queued = asyncio.ensure_future(thread.run(began.append, 1, deadline_ns=soon(20 * NS_PER_MS)))
        for late in (stuck, queued):
            with pytest.raises(TimeoutError):
                await late
        assert thread.outstanding == 2
        with pytest.raises(TimeoutError):  # no room
            await thread.run(began.append, 2, deadline_ns=soon(10 * NS_PER_S))
        release.set()
        end = time.monotonic() + 10
        while thread.outstanding and time.monotonic() < end:
            await asyncio.sleep(0)
        assert await thread.run(lambda: 5, deadline_ns=soon(10 * NS_PER_S)) == 5

    asyncio.run(main())
    assert began == []
    assert thread.outstanding == 0


def test_call_past_its_deadline_is_refused_at_once(thread: InferenceThread) -> None:
    """A deadline in the past costs no queueing."""

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await thread.run(lambda: 1, deadline_ns=soon(-1))

    asyncio.run(main())
    assert thread.outstanding == 0


def test_cancelled_waiter_leaves_the_thread_usable(thread: InferenceThread) -> None:
    """A cancelled call is dropped when it ends, and its place becomes free."""
    release = threading.Event()

    async def main() -> int:
        task = asyncio.ensure_future(thread.run(release.wait, 60, deadline_ns=soon(60 * NS_PER_S)))
        while not thread.outstanding:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        release.set()
        return await thread.run(lambda: 3, deadline_ns=soon(60 * NS_PER_S))

    assert asyncio.run(main()) == 3


def test_loop_closed_under_a_running_call_does_not_kill_the_next_loop(thread: InferenceThread) -> None:
    """A result for a loop that is gone is dropped; the thread serves on."""
    release = threading.Event()

    async def leave() -> None:
        task = asyncio.ensure_future(thread.run(release.wait, 60, deadline_ns=soon(60 * NS_PER_S)))
        await asyncio.sleep(0)
        task.cancel()

    asyncio.run(leave())
    release.set()

    async def again() -> int:
        return await thread.run(lambda: 3, deadline_ns=soon(60 * NS_PER_S))

    assert asyncio.run(again()) == 3


def test_yielded_core_is_back_when_the_call_ends(thread: InferenceThread) -> None:
    """Whoever yields the core is woken by the end of the call, long before the wait would be over."""

    async def main() -> bool:
        release = threading.Event()
        call = asyncio.ensure_future(thread.run(release.wait, deadline_ns=soon(100 * NS_PER_S)))
        await asyncio.sleep(0)
        threading.Timer(0.01, release.set).start()
        thread.yield_core(60 * NS_PER_S)
        return await call

    began_s = time.monotonic()
    assert asyncio.run(main())
    assert time.monotonic() - began_s < 30


def test_result_that_was_there_in_time_is_taken_by_a_loop_that_was_late(thread: InferenceThread) -> None:
    """A loop that was at work past the deadline finds its timer due first, and the result all the same."""

    async def main() -> int:
        loop = asyncio.get_running_loop()
        call = asyncio.ensure_future(thread.run(lambda: time.sleep(0.01) or 3, deadline_ns=soon(40 * NS_PER_MS)))
        await asyncio.sleep(0)
        loop.call_soon(time.sleep, 0.1)
        return await call

    for loop_of in (asyncio.new_event_loop, uvloop.new_event_loop):
        with asyncio.Runner(loop_factory=loop_of) as runner:
            assert runner.run(main()) == 3
