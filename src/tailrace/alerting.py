"""When a pipeline's operator is told: the thresholds of the built-in alerts, as a pipeline declares them. No I/O."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True, kw_only=True)
class Alerts:
    """The thresholds of the built-in alerts; None, or False, switches one off.

    p99_over: how many times the budget the p99 may be. error_share: of the answers, that may be a 5xx, sheds included.
    availability: share of the answers that must be none over 30 days; how fast the rest is used up is watched.
    cache_hit_share: of the rows, that the cache of a network store must hold. stale_share: of the view rows, that may
    be older than their `max_staleness`. breaker: whether a breaker that is open is told. predictions: whether scores or
    a decision's share are that moved beyond two standard deviations of their baseline. drift: whether drift is.
    Raises ValueError for what none of these may be.
    """

    p99_over: float | None = 2.0
    error_share: float | None = 0.001
    availability: float | None = 0.999
    cache_hit_share: float | None = 0.8
    stale_share: float | None = 0.01
    breaker: bool = True
    predictions: bool = True
    drift: bool = True

    def __post_init__(self) -> None:
        for name in (each.name for each in fields(self)):
            value = getattr(self, name)
            if name in ("breaker", "predictions", "drift"):
                if not isinstance(value, bool):
                    raise ValueError(f"Alerts: {name}={value!r} is neither True nor False")
                continue
            most = 1.0 if name.endswith("_share") or name == "availability" else 1_000.0
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if value is not None and not (is_number and math.isfinite(value) and 0 < value < most):
                raise ValueError(f"Alerts: {name}={value!r} is out of range; above 0 and under {most:g}, or None")


DEFAULTS = Alerts()
