"""What a model call costs: measured at warm-up for each batch size, read by the stages and the batcher.

The curve is not a line (ONNX Runtime's tree kernels change their loops with the batch size), so it is measured at
several sizes and interpolated between them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol

from numpy.typing import NDArray

from tailrace.deadline import NS_PER_MS, Clock, MonotonicClock
from tailrace.inference.predictor import Feeds, Predictor
from tailrace.inference.timing import Stopwatch, draw_batches, own_time

SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_EVERY_SIZE: Final = range(1, 100_000)

CALLS_MAX: Final = 200
"""Calls measured at one size at most."""
ALIKE: Final = 1.15
"""Costs of a row that differ by less are taken for the same. Of a heavy model three calls at a size are measured, and a
size that is not run because it was measured in a bad moment is not learned either; one that is run is."""


class SampledModel(Predictor, Protocol):
    """A model that has rows to be measured with."""

    def sample_feeds(self, rows: int, *, seed: int = 0) -> Mapping[str, NDArray[Any]]:
        """Return feeds of so many rows as it meets in serving, other ones for another seed."""
        ...


@dataclass(frozen=True, slots=True)
class CostCurve:
    """Batch size → time of one model call.

    sizes: rows, ascending, from 1. costs_ns: the median at each; p95s_ns: the 95th percentile at each.
    Between sizes it is interpolated; beyond the last it goes on at the last size's cost per row.
    """

    sizes: tuple[int, ...]
    costs_ns: tuple[int, ...]
    p95s_ns: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.sizes or self.sizes[0] < 1 or list(self.sizes) != sorted(set(self.sizes)):
            raise ValueError(f"CostCurve: sizes must be ascending from 1 row on, not {self.sizes}")
        if not len(self.sizes) == len(self.costs_ns) == len(self.p95s_ns):
            raise ValueError("CostCurve: one cost and one p95 is needed for each size")

    def cost_ns(self, rows: int) -> int:
        """Return the median time of a call of `rows` rows."""
        return _interpolate(self.sizes, self.costs_ns, rows)

    def p95_ns(self, rows: int) -> int:
        """Return the 95th percentile of the time of a call of `rows` rows."""
        return _interpolate(self.sizes, self.p95s_ns, rows)

    def rows_within(self, limit_ns: int) -> int:
        """Return the most rows whose call takes no longer than `limit_ns`, at the 95th percentile; none for 0."""
        return bisect_right(_EVERY_SIZE, limit_ns, key=self.p95_ns)

    def best_rows(self, limit_ns: int | None = None, overhead_ns: int = 0) -> int:
        """Return the largest measured size with about the least cost per row, of those whose cost is within `limit_ns`.

        overhead_ns: what a batch costs beside the model, however many rows it has; it speaks for larger ones.
        The smallest size (1) when none is within the limit: a model cannot be asked for less.
        """
        per_row = [
            ((cost + overhead_ns) / rows, rows)
            for rows, cost in zip(self.sizes, self.costs_ns, strict=True)
            if limit_ns is None or cost <= limit_ns
        ]
        least = min(per_row, default=(0.0, 0))[0]
        return max((rows for cost, rows in per_row if cost <= ALIKE * least), default=self.sizes[0])


def measure_curve(
    model: SampledModel,
    *,
    sizes: Sequence[int] = SIZES,
    limit_ns: int = 120 * NS_PER_MS,
    clock: Clock | None = None,
    stopwatch: Callable[[Clock], Stopwatch] = own_time,
) -> CostCurve:
    """Warm the model at every size and return what each costs.

    limit_ns: bounds the whole, in the model's own time: each size gets an even part of what is left, at least one warm
    call and one measured call. Once that is used up (a slow model) larger sizes are skipped and the curve ends earlier;
    size one is always measured. stopwatch: what times a call by the clock.
    """
    time_call = stopwatch(clock or MonotonicClock())
    spent_ns = 0
    measured: list[tuple[int, int, int]] = []
    for index, rows in enumerate(sizes):
        expected_ns = measured[-1][1] * rows // measured[-1][0] if measured else 0
        if measured and spent_ns + 2 * expected_ns > limit_ns:
            break
        batches = draw_batches(lambda count, seed: model.sample_feeds(count, seed=seed), rows)
        part_ns = (limit_ns - spent_ns) // (len(sizes) - index)
        times_ns = _time_calls(partial(time_call, model.predict), batches, part_ns)
        spent_ns += sum(times_ns)
        del times_ns[0]  # it warmed the model
        times_ns.sort()
        measured.append(
            (rows, times_ns[len(times_ns) // 2], times_ns[min(len(times_ns) - 1, len(times_ns) * 95 // 100)])
        )
    rows_all, costs_ns, p95s_ns = zip(*measured, strict=True)
    return CostCurve(rows_all, without_noise(costs_ns), without_noise(p95s_ns))


def without_noise(times_ns: tuple[int, ...]) -> tuple[int, ...]:
    """Return times that never fall as the size grows: where fewer rows took longer, something else had the core."""
    return tuple(min(times_ns[index:]) for index in range(len(times_ns)))


def _time_calls(time_call: Callable[[Feeds], int], batches: Sequence[Feeds], limit_ns: int) -> list[int]:
    """Call once to warm, then until `limit_ns` is spent (at least once, at most CALLS_MAX times); return the times."""
    times_ns = [time_call(batches[-1])]
    spent_ns = times_ns[0]
    while True:
        times_ns.append(time_call(batches[(len(times_ns) - 1) % len(batches)]))
        spent_ns += times_ns[-1]
        if spent_ns >= limit_ns or len(times_ns) > CALLS_MAX:
            return times_ns


def _interpolate(sizes: tuple[int, ...], times_ns: tuple[int, ...], rows: int) -> int:
    """Return the time at `rows`: linear between the sizes, in proportion beyond the last."""
    if rows <= sizes[0]:
        return times_ns[0]
    if rows >= sizes[-1]:
        return times_ns[-1] * rows // sizes[-1]
    right = bisect_right(sizes, rows)
    low, high = sizes[right - 1], sizes[right]
    return times_ns[right - 1] + (times_ns[right] - times_ns[right - 1]) * (rows - low) // (high - low)
