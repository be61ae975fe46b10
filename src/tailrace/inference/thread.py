"""An inference thread of a worker: heavy model calls run here while the loop gathers the next batch.

A model has one, unless more instances of it are declared, and one more for the model that it falls back to;
explanations have one too. The worker owns one core: a second instance that computes there would only take turns with
the first, one that waits for something else need not. ONNX Runtime releases the GIL while it computes.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeVar

from tailrace.core_share import stand_back
from tailrace.deadline import NS_PER_S, Clock, MonotonicClock

T = TypeVar("T")
Done = Callable[[Any, BaseException | None], None]
"""Is told, on the loop, what a call has returned or raised."""

OUTSTANDING_MAX: Final = 4
"""Calls queued or running: more than the next one waiting only ages in the queue."""

NICE: Final = 5
"""What the loop does while a model computes takes microseconds, and callers wait for it: the core is the loop's when it
wakes. A model that computes without end has a quarter of it beside a loop that works without end."""


class _Job(NamedTuple):
    call: Callable[[], Any]
    done: Done
    loop: asyncio.AbstractEventLoop


class InferenceThread:
    """Runs functions one at a time on a daemon thread. Used from one event loop.

    `outstanding` counts what is queued or running.
    """

    def __init__(self, *, outstanding_max: int = OUTSTANDING_MAX, clock: Clock | None = None) -> None:
        self.outstanding = 0
        self.outstanding_max = outstanding_max
        self._clock = clock or MonotonicClock()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="tailrace-inference", daemon=True)
        self._thread.start()

    def submit(self, call: Callable[[], Any], done: Done) -> None:
        """Have a function called on the thread, after what is queued; `done` is told on the running loop."""
        self.outstanding += 1
        self._ended.clear()
        self._jobs.put(_Job(call, done, asyncio.get_running_loop()))

    async def run(self, function: Callable[..., T], *args: Any, deadline_ns: int) -> T:
        """Return `function(*args)`, computed on the thread.

        deadline_ns: absolute, of the clock. Raises TimeoutError there and then: the caller never waits longer, a call
        that has not begun is never begun, and the result of one that runs is dropped. Raises TimeoutError at once when
        `outstanding_max` calls are outstanding (the thread is behind, possibly stuck). Raises what the function raises.
        After a TimeoutError the function may still be reading its arguments: hand it arrays that are not reused.
        """
        left_ns = deadline_ns - self._clock.now_ns()
        if left_ns <= 0 or self.outstanding >= self.outstanding_max:
            raise TimeoutError("the inference thread has no time or no room for this batch")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def call() -> T:
            if future.done() or self._clock.now_ns() >= deadline_ns:
                raise TimeoutError("the model call passed its deadline in the queue")
            return function(*args)

        # A turn later: a loop that comes late to its timers finds the result of a thread behind them.
        timer = loop.call_later(left_ns / NS_PER_S, loop.call_soon, self._expire, future)
        self.submit(call, lambda result, error: settle(future, result, error))
        try:
            return await future
        finally:
            future.cancel()
            timer.cancel()

    def yield_core(self, limit_ns: int) -> None:
        """Block the calling loop, so that the core is the running call's: until it is done, or for so long."""
        self._ended.wait(limit_ns / NS_PER_S)

    def close(self, timeout_s: float = 1.0) -> bool:
        """End the thread after what is queued; return whether it ended in time (a stuck daemon dies with us)."""
        self._jobs.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _expire(self, future: asyncio.Future[Any]) -> None:
        if not future.done():
            future.set_exception(TimeoutError("the model call passed its deadline"))

    def _finish(self, job: _Job, result: Any, error: BaseException | None) -> None:
        """On the loop: hand the outcome on."""
        self.outstanding -= 1
        job.done(result, error)

    def _work(self) -> None:
        stand_back(NICE)
        while (job := self._jobs.get()) is not None:
            result: Any = None
            error: BaseException | None = None
            try:
                result = job.call()
            except BaseException as raised:  # handed to the waiter, which is on another thread
                error = raised
            self._ended.set()
            try:
                job.loop.call_soon_threadsafe(self._finish, job, result, error)
            except RuntimeError:  # the loop was closed meanwhile: nobody waits, and nobody else counts
                self.outstanding -= 1
            del job, result, error


def settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    """Give a future its outcome, unless nobody waits for it any more."""
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
