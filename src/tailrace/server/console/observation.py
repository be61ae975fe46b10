"""What the console shows of what the observer has said, and whether that is to be heard at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from tailrace.monitor.drift.shown import ShownDrift
from tailrace.monitor.merged import MergedMetrics
from tailrace.monitor.metrics import LOST_REASONS
from tailrace.monitor.observed import Observed
from tailrace.monitor.slowest import SlowRequest
from tailrace.server.admin import CompanionStatus
from tailrace.server.companions import OBSERVER


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """By pipeline. observer: "off" where none is asked for, "silent" while it says nothing; then there is nothing else.

    drift: the last windows, None where they are those of the last message. drift_at_s: when the newest of them ended.
    lost: requests that it was not told of or could not keep since the start, by reason.
    """

    observer: Literal["off", "silent", "on"]
    slow: dict[str, tuple[SlowRequest, ...]] = {}
    drift: dict[str, ShownDrift] | None = None
    drift_at_s: float = 0.0
    lost: dict[str, int] = {}


class Observing:
    """Says what changes: windows of drift are long to tell, and end seldom."""

    def __init__(self) -> None:
        self._whole = Observation(observer="off", drift={})

    @property
    def whole(self) -> Observation:
        """The last observation, with its drift."""
        return self._whole

    def look(
        self, observed: Observed | None, companions: Sequence[CompanionStatus], metrics: MergedMetrics
    ) -> Observation:
        """Return what is to be said now."""
        lost = {reason: metrics.value("tailrace_predictions_lost_total", reason) for reason in LOST_REASONS}
        lost = {reason: count for reason, count in lost.items() if count}
        if observed is None:
            is_asked = any(companion.name == OBSERVER for companion in companions)
            now = Observation(observer="silent" if is_asked else "off", drift={}, lost=lost)
        else:
            drift = observed.drift
            ended_s = max((each.ended_s for each in drift.values()), default=0.0)
            now = Observation(observer="on", slow=observed.slow, drift=drift, drift_at_s=ended_s, lost=lost)
        last, self._whole = self._whole, now
        return now if now.drift != last.drift else msgspec.structs.replace(now, drift=None)
