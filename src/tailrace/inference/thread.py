"""The inference thread of a worker: heavy model calls run here while the loop gathers the next batch.

One thread, because the worker owns one core: a second would only take turns with the first. ONNX Runtime releases the
GIL while it computes.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from tailrace.deadline import NS_PER_S, Clock, MonotonicClock

T = TypeVar("T")

YIELD_S: Final = 0.001
"""A loop that wakes for every call it refuses takes 30 µs of the core from the model each time, three times what the
refusal costs (bench/overload.py)."""

OUTSTANDING_MAX: Final = 4
"""Calls queued or running: more than the next one waiting only ages in the queue."""


@dataclass(slots=True)
class _Job:
    call: Callable[[], Any]
    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop
    deadline_ns: int
    dropped: bool = field(default=False)


class InferenceThread:
    """Runs functions one at a time on a daemon thread, each under a deadline.

    Used from one event loop. `outstanding` counts what is queued or running, `timeouts` what came too late.
    """

    def __init__(self, *, outstanding_max: int = OUTSTANDING_MAX, clock: Clock | None = None) -> None:
        self.outstanding = 0
        self.outstanding_max = outstanding_max
        self.timeouts = 0
        self._clock = clock or MonotonicClock()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._work, name="tailrace-inference", daemon=True)
        self._thread.start()

    async def run(self, function: Callable[..., T], *args: Any, deadline_ns: int) -> T:
        """Return `function(*args)`, computed on the thread.

        deadline_ns: absolute, of the clock. Raises TimeoutError there and then: the caller never waits longer, a call
        that has not begun is never begun, and the result of one that runs is dropped. Raises TimeoutError at once when
        `outstanding_max` calls are outstanding (the thread is behind, possibly stuck). Raises what the function raises.
        After a TimeoutError the function may still be reading its arguments: hand it arrays that are not reused.
        """
        left_ns = deadline_ns - self._clock.now_ns()
        if left_ns <= 0 or self.outstanding >= self.outstanding_max:
            self.timeouts += 1
            raise TimeoutError("the inference thread has no time or no room for this batch")
        loop = asyncio.get_running_loop()
        job = _Job(lambda: function(*args), loop.create_future(), loop, deadline_ns)
        self.outstanding += 1
        self._done.clear()
        timer = loop.call_later(left_ns / NS_PER_S, self._expire, job)
        self._jobs.put(job)
        try:
            result: T = await job.future
        finally:
            job.dropped = True
            timer.cancel()
        return result

    def yield_core(self) -> None:
        """Block the calling loop, so that the core is the running call's: until it is done, or `YIELD_S` at most."""
        self._done.wait(YIELD_S)

    def close(self, timeout_s: float = 1.0) -> bool:
        """End the thread after what is queued; return whether it ended in time (a stuck daemon dies with us)."""
        self._jobs.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _expire(self, job: _Job) -> None:
        if not job.future.done():
            self.timeouts += 1
            job.future.set_exception(TimeoutError("the model call passed its deadline"))

    def _settle(self, job: _Job, result: Any, error: BaseException | None) -> None:
        """On the loop: hand the outcome to the waiter, if it still waits."""
        self.outstanding -= 1
        if job.future.done():
            return
        if error is not None:
            job.future.set_exception(error)
        else:
            job.future.set_result(result)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            result: Any = None
            error: BaseException | None = None
            if not job.dropped and self._clock.now_ns() < job.deadline_ns:
                try:
                    result = job.call()
                except BaseException as raised:  # handed to the waiter, which is on another thread
                    error = raised
            else:
                error = TimeoutError("the model call passed its deadline in the queue")
            self._done.set()
            try:
                job.loop.call_soon_threadsafe(self._settle, job, result, error)
            except RuntimeError:  # the loop was closed meanwhile: nobody waits, and nobody else counts
                self.outstanding -= 1
            del job, result, error
