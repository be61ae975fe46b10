"""What the observer has to show: one bounded document a second, which the supervisor shows on its pages."""

from __future__ import annotations

from typing import Final

import msgspec

from tailrace.monitor.ages import ViewAge
from tailrace.monitor.drift.outcomes import LiveOutcomes
from tailrace.monitor.drift.shown import ShownDrift
from tailrace.monitor.exemplars import Exemplar
from tailrace.monitor.slowest import SlowRequest
from tailrace.monitor.tracing.outcomes import TraceState

OBSERVED_BYTES_MAX: Final = 512 << 10
"""Of a document as JSON; of a longer one something is left out."""
LEFT_OUT: Final = ("slow", "exemplars", "outcomes", "ages")
"""What is left out, the first first, until the rest is short enough: of twenty pipelines all may be too much."""


class Observed(msgspec.Struct, tag=True, kw_only=True):
    """Observer → supervisor; each watch fills its own field of a new document. at_s: when it was made, since the epoch.

    drift: the last window of each pipeline. outcomes: how good the predictions of each were, where labels have come.
    slow: of each pipeline the slowest requests of the last minute and of ten, the slowest first. traces: how their
    export is doing; None unless they are exported. exemplars: of each bucket of a pipeline's times the last trace.
    ages: of the rows that were served last, by pipeline and view.
    """

    at_s: float
    drift: dict[str, ShownDrift] = {}
    outcomes: dict[str, LiveOutcomes] = {}
    slow: dict[str, tuple[SlowRequest, ...]] = {}
    traces: TraceState | None = None
    exemplars: dict[str, tuple[Exemplar, ...]] = {}
    ages: dict[str, dict[str, ViewAge]] = {}
