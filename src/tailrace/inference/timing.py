"""How long calls of a model take: one call, and the different batches that calls are measured with."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter_ns
from typing import Any, Final

from numpy.typing import NDArray

from tailrace.inference.predictor import Feeds

BATCHES: Final = 8
"""Different batches that take turns, so that the processor cannot learn one by heart."""

Predict = Callable[[Feeds], NDArray[Any]]
"""`predict` of a model."""
Draw = Callable[[int, int], Feeds]
"""Returns the feeds of so many rows, other ones for another seed."""


def draw_batches(draw: Draw, rows: int) -> list[Feeds]:
    """Return the batches of so many rows that take turns."""
    return [draw(rows, seed) for seed in range(BATCHES)]


def time_call(predict: Predict, feeds: Feeds) -> int:
    """Return what one call takes, in nanoseconds."""
    start_ns = perf_counter_ns()
    predict(feeds)
    return perf_counter_ns() - start_ns
