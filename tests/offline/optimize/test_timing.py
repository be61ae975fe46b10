from __future__ import annotations

from time import perf_counter_ns

import numpy as np

from tailrace.inference.predictor import Feeds
from tailrace.offline.optimize.timing import ROUNDS_MIN, bounds, time_pair


def spin(us: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Take so long."""
    end_ns = perf_counter_ns() + us * 1_000
    while perf_counter_ns() < end_ns:
        pass
    return np.zeros(1)


def draw(count: int, seed: int) -> Feeds:
    """Return feeds of so many rows."""
    return {"x": np.full((count, 1), seed)}


def test_pair_tells_the_ratio_and_its_bounds() -> None:
    """What takes 100 µs where the baseline takes 300 is three times as fast, and the bounds are about the median."""
    found = time_pair(lambda feeds: spin(300), lambda feeds: spin(100), draw, 1, 0.05)
    assert 2.4 < found.speedup < 3.3
    assert found.speedup_low <= found.speedup <= found.speedup_high
    assert 95_000 <= found.p50_ns <= found.p99_ns
    assert found.base_p50_ns > 2 * found.p50_ns
    assert found.calls >= 3 * ROUNDS_MIN


def test_bounds_are_order_statistics() -> None:
    """Of 20 values the 6th and the 15th, in whatever order they come; of few all of them."""
    assert bounds([float(each) for each in (*range(11, 21), *range(1, 11))]) == (6.0, 15.0)
    assert bounds([3.0, 1.0, 2.0]) == (1.0, 3.0)
    assert bounds([2.0]) == (2.0, 2.0)
