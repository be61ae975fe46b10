"""Budgets, deadlines and the clock. Time is monotonic nanoseconds; a deadline is one absolute value passed down."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Final, Protocol

NS_PER_US: Final = 1_000
NS_PER_MS: Final = 1_000_000
NS_PER_S: Final = 1_000_000_000

LAYERS: Final = ("request", "features", "inference", "postprocess", "response")
"""The five layers, in the order a batch travels through them."""
FEATURES: Final = 1
INFERENCE: Final = 2
"""Indexes in `LAYERS` of those that may wait."""

_UNITS_NS: Final = {
    "ns": 1, "us": NS_PER_US, "µs": NS_PER_US, "ms": NS_PER_MS, "s": NS_PER_S,
    "m": 60 * NS_PER_S, "h": 3_600 * NS_PER_S, "d": 86_400 * NS_PER_S,
}  # fmt: skip
_DURATION: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ns|us|µs|ms|s|m|h|d)\s*")


def parse_duration(text: str) -> int:
    """Return the nanoseconds in a text such as "50ms", "1.5s", "5m", "1h" or "90d".

    Raises ValueError that names the accepted units.
    """
    match = _DURATION.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise ValueError(f"{text!r} is not a duration; write a number and one of ns, us, ms, s, m, h, d, as in '50ms'")
    return round(float(match[1]) * _UNITS_NS[match[2]])


def format_duration(duration_ns: float) -> str:
    """Return nanoseconds as a short text with three significant digits: "850 µs", "1.24 ms", "2.00 s"."""
    for unit, size_ns in (("s", NS_PER_S), ("ms", NS_PER_MS), ("µs", NS_PER_US)):
        if abs(duration_ns) >= size_ns:
            amount = duration_ns / size_ns
            return f"{amount:.{2 if abs(amount) < 10 else 1 if abs(amount) < 100 else 0}f} {unit}"
    return f"{duration_ns:.0f} ns"


class Clock(Protocol):
    """Where time comes from. Serving uses `MonotonicClock`; tests use `tailrace.testing.ManualClock`."""

    def now_ns(self) -> int:
        """Return monotonic nanoseconds, for deadlines and durations."""
        ...

    def wall_ns(self) -> int:
        """Return nanoseconds since the Unix epoch, for the age of features."""
        ...


class MonotonicClock:
    """The machine's clocks."""

    now_ns = staticmethod(time.monotonic_ns)
    wall_ns = staticmethod(time.time_ns)


@dataclass(frozen=True, slots=True, init=False)
class Budget:
    """How long a call may take, and each layer's own part of it, in nanoseconds.

    What the layers leave over is the buffer; it belongs to no layer and absorbs queueing. A layer that is given no
    part (0) is not held to one of its own, only to the total less what the layers behind it are owed.
    Raises ValueError for what is no duration, or a total of none.
    """

    total_ns: int
    request_ns: int
    features_ns: int
    inference_ns: int
    postprocess_ns: int
    response_ns: int

    def __init__(
        self,
        total: str,
        *,
        request: str = "0ms",
        features: str = "0ms",
        inference: str = "0ms",
        postprocess: str = "0ms",
        response: str = "0ms",
    ) -> None:
        parts = {"total": total, "request": request, "features": features, "inference": inference,
                 "postprocess": postprocess, "response": response}  # fmt: skip
        for name, text in parts.items():
            object.__setattr__(self, f"{name}_ns", parse_duration(text))
        if not self.total_ns:
            raise ValueError(f"Budget({total!r}): no call can be answered in no time; give it some, as in '50ms'")

    @property
    def layers_ns(self) -> tuple[int, int, int, int, int]:
        """Each layer's part, in the order of `LAYERS`."""
        return (self.request_ns, self.features_ns, self.inference_ns, self.postprocess_ns, self.response_ns)

    @property
    def buffer_ns(self) -> int:
        """What the layers leave over; negative when they are promised more than the total."""
        return self.total_ns - sum(self.layers_ns)

    def owed_after_ns(self, layer: int) -> int:
        """Return what the layers behind `layer` (its index in `LAYERS`) are owed."""
        return sum(self.layers_ns[layer + 1 :])


class LayerLimit:
    """When a layer of a batch must end: after its own part, and never in what the layers behind it are owed.

    layer: its index in `LAYERS`.
    """

    __slots__ = ("_now_ns", "_owed_ns", "_own_ns")

    def __init__(self, budget: Budget, layer: int, clock: Clock) -> None:
        self._now_ns = clock.now_ns
        self._own_ns = budget.layers_ns[layer]
        self._owed_ns = budget.owed_after_ns(layer)

    def at_ns(self, deadline_ns: int) -> int:
        """Return the time, for a batch that must be answered by `deadline_ns`, and whose layer begins now."""
        latest_ns = deadline_ns - self._owed_ns
        return min(latest_ns, self._now_ns() + self._own_ns) if self._own_ns else latest_ns
