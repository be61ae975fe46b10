"""How long calls of a model take: one call by a stopwatch, and the different batches that calls are measured with."""

from __future__ import annotations

from collections.abc import Callable
from resource import RUSAGE_THREAD, getrusage
from time import perf_counter_ns, thread_time_ns
from typing import Any, Final

from numpy.typing import NDArray

from tailrace.deadline import Clock
from tailrace.inference.predictor import Feeds

BATCHES: Final = 8
"""Different batches that take turns, so that the processor cannot learn one by heart."""

Predict = Callable[[Feeds], NDArray[Any]]
"""`predict` of a model."""
Draw = Callable[[int, int], Feeds]
"""Returns the feeds of so many rows, other ones for another seed."""
Stopwatch = Callable[[Predict, Feeds], int]
"""Calls a model, and returns how many nanoseconds that took."""


def draw_batches(draw: Draw, rows: int) -> list[Feeds]:
    """Return the batches of so many rows that take turns."""
    return [draw(rows, seed) for seed in range(BATCHES)]


def time_call(predict: Predict, feeds: Feeds) -> int:
    """Return what one call takes, in nanoseconds, with what other programs take of it. A `Stopwatch`."""
    start_ns = perf_counter_ns()
    predict(feeds)
    return perf_counter_ns() - start_ns


def own_time(clock: Clock) -> Stopwatch:
    """Return a stopwatch that leaves out what other programs have taken of a call.

    Of a call that was driven off its core (getrusage(2), ru_nivcsw) the time of its thread is counted instead. A worker
    that starts beside others is held back, and measured its model two to three times as dear, or too few sizes of it.
    """

    def time_own(predict: Predict, feeds: Feeds) -> int:
        driven_off, thread_ns, start_ns = _times_driven_off(), thread_time_ns(), clock.now_ns()
        predict(feeds)
        took_ns = clock.now_ns() - start_ns
        return took_ns if _times_driven_off() == driven_off else min(thread_time_ns() - thread_ns, took_ns)

    return time_own


def _times_driven_off() -> int:
    return getrusage(RUSAGE_THREAD).ru_nivcsw
