"""What calls of a model take beside those of the baseline: in blocks by turns, so that noise falls on both."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from time import perf_counter_ns
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from tailrace.deadline import NS_PER_MS, NS_PER_S
from tailrace.inference.predictor import Feeds
from tailrace.inference.timing import Draw, Predict, draw_batches, time_call

ROUNDS_MIN: Final = 12
ROUNDS_MAX: Final = 200
BLOCK_NS: Final = 10 * NS_PER_MS
"""What one side's block of calls takes, about."""
CALLS_MAX: Final = 256
"""Calls of one block."""
CALLS_MIN: Final = 5
SHARE: Final = 0.25
"""Which quantile of a block's calls is compared. What else the machine does only adds: on a busy one medians of blocks
were up to twice apart, lower quartiles a tenth."""


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """What a call of `batch` rows takes, and what one of the baseline took meanwhile.

    speedup: the median over the rounds of the baseline's lower quartile ÷ its own, with that median's bounds at 95%.
    """

    batch: int
    p50_ns: int
    p99_ns: int
    base_p50_ns: int
    base_p99_ns: int
    speedup: float
    speedup_low: float
    speedup_high: float
    calls: int


def time_pair(base: Predict, other: Predict, draw: Draw, batch: int, seconds: float) -> Timing:
    """Return the times of a model and of the baseline at one number of rows, in `seconds` or ROUNDS_MIN rounds.

    The first call of each block warms the caches that the other side has filled, and is left out.
    """
    batches = draw_batches(draw, batch)
    counts = [_calls_a_block(predict, batches) for predict in (base, other)]
    taken: list[list[NDArray[np.int64]]] = [[], []]
    end_ns = perf_counter_ns() + int(seconds * NS_PER_S)
    gc.disable()
    try:
        for turn in range(ROUNDS_MAX):
            for which in (0, 1) if turn % 2 else (1, 0):
                taken[which].append(_time_block((base, other)[which], batches, counts[which]))
            if turn + 1 >= ROUNDS_MIN and perf_counter_ns() > end_ns:
                break
    finally:
        gc.enable()
    ratios = [float(np.quantile(one, SHARE) / np.quantile(two, SHARE)) for one, two in zip(*taken, strict=True)]
    low, high = bounds(ratios)
    base_ns, own_ns = (np.concatenate(blocks) for blocks in taken)
    return Timing(
        batch=batch, p50_ns=int(np.median(own_ns)), p99_ns=int(np.quantile(own_ns, 0.99)),
        base_p50_ns=int(np.median(base_ns)), base_p99_ns=int(np.quantile(base_ns, 0.99)),
        speedup=float(np.median(ratios)), speedup_low=low, speedup_high=high, calls=len(own_ns),
    )  # fmt: skip


def bounds(values: Sequence[float]) -> tuple[float, float]:
    """Return between which values the median lies, by order statistics.

    Of six or more values it does at 92% to 98%; of 20, for one, the bounds are the 6th and the 15th. Of fewer than
    eight they are the least and the greatest: of 5 at 94%, of 4 at 88%, of 3 at 75% and no more.
    """
    ordered = sorted(values)
    cut = max(0, int(len(ordered) / 2 - 0.98 * len(ordered) ** 0.5))
    return ordered[cut], ordered[-cut - 1]


def _calls_a_block(predict: Predict, batches: Sequence[Feeds]) -> int:
    """Return how many calls fill a block, after the model was warmed."""
    predict(batches[0])
    start_ns = perf_counter_ns()
    for feeds in batches[:CALLS_MIN]:
        predict(feeds)
    each_ns = (perf_counter_ns() - start_ns) // CALLS_MIN
    return min(CALLS_MAX, max(CALLS_MIN, BLOCK_NS // max(each_ns, 1)))


def _time_block(predict: Predict, batches: Sequence[Feeds], calls: int) -> NDArray[np.int64]:
    predict(batches[-1])
    return np.array([time_call(predict, batches[call % len(batches)]) for call in range(calls)], np.int64)
