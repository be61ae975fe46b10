"""What the rules see of one pipeline: what it counted over several windows, and what its gauges say now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tailrace.alerting import Alerts
from tailrace.deadline import LAYERS, NS_PER_S
from tailrace.monitor.drift.shown import ShownSeries
from tailrace.monitor.histogram import Histogram
from tailrace.monitor.merged import Key, MergedMetrics, MergedSeries
from tailrace.monitor.window import Window

MINUTE_S: Final = 60.0
HOUR_S: Final = 3_600.0
DAY_S: Final = 86_400.0
SPANS_S: Final = (5 * MINUTE_S, 30 * MINUTE_S, HOUR_S, 6 * HOUR_S, 3 * DAY_S)
LATENCY_SPAN_S: Final = MINUTE_S
_LATENCY_SLOTS: Final = 12
WAIT: Final = "the queue"
_TIMES: Final = ("tailrace_request_seconds", "tailrace_queue_wait_seconds", "tailrace_layer_seconds")
COUNTS: Final = ("requests", "errors", "shed", "cache_hits", "cache_misses", "values", "stale")
_PLACE: Final = {name: place for place, name in enumerate(COUNTS)}
_COUNTERS: Final = {
    "tailrace_shed_total": "shed",
    "tailrace_cache_hits_total": "cache_hits",
    "tailrace_cache_misses_total": "cache_misses",
}


class Sight:
    """One pipeline's windows. It keeps what it needs and no more, however long it looks.

    drifted, deviating: how many series of a kind (feature, score, decision …) have drifted, or are beyond two standard
    deviations of their baseline; shown: the worst series; as the observer says, and empty where none does.
    """

    def __init__(self, pipeline: str, at_ns: int) -> None:
        self.pipeline = pipeline
        self.alerts = Alerts()
        self.at_ns = self._since_ns = at_ns
        self.budget_ns = 0
        self.breakers: tuple[tuple[str, int], ...] = ()
        self.drifted: dict[str, int] = {}
        self.deviating: dict[str, int] = {}
        self.shown: tuple[ShownSeries, ...] = ()
        self._windows = {span_s: Window(span_s, len(COUNTS)) for span_s in SPANS_S}
        self._latency: Window | None = None
        self._shapes: tuple[tuple[str, tuple[int, ...]], ...] = ()
        self._stale: dict[str, int] = {}

    @property
    def age_s(self) -> float:
        """For how long it has been looking."""
        return (self.at_ns - self._since_ns) / NS_PER_S

    def look(self, at_ns: int, now: Mapping[Key, MergedSeries], earlier: MergedMetrics) -> None:
        """Take in one second. now: this pipeline's series; earlier: all series of a second ago.

        What is seen for the first time, or has become less, counts from now on: nothing that a new worker brings along
        is told as if it had just happened.
        """
        self.at_ns = at_ns
        counts = np.zeros(len(COUNTS), np.int64)
        breakers, stale, times = [], {}, []
        self.drifted, self.deviating = (_kinds(now, f"tailrace_drift_{name}") for name in ("alarms", "deviating"))
        for (name, labels), merged in now.items():
            if name in _TIMES:
                times.append((merged, _counted(merged, earlier.series.get((name, labels)))))
            elif name.endswith("breaker_open") and merged.value:
                breakers.append((labels[1] if len(labels) > 1 else "", merged.value))
            elif (kept := _columns(name, labels)) and (
                came := int(_counted(merged, earlier.series.get((name, labels)))[0])
            ):
                counts[list(kept)] += came
                if _PLACE["stale"] in kept:
                    stale[labels[1]] = came
        self.breakers = tuple(breakers)
        if stale:
            self._stale = stale
        for window in self._windows.values():
            window.add(at_ns, counts)
        self._look_at_times(times)

    def counts(self, span_s: float) -> dict[str, int]:
        """Return what was counted over a span, one of `SPANS_S`, by name (`COUNTS`)."""
        return dict(zip(COUNTS, self._windows[span_s].sums(self.at_ns).tolist(), strict=True))

    @property
    def stalest(self) -> str:
        """The view that had the most stale rows, when there last were some; "" before there are."""
        return max(self._stale, key=lambda view: self._stale[view], default="")

    def times(self) -> dict[str, Histogram]:
        """Return the times of the last minute: "" for whole calls, the queue, and each layer."""
        if self._latency is None:
            return {}
        cells, start, found = self._latency.sums(self.at_ns), 0, {}
        for name, edges in self._shapes:
            found[name] = Histogram(edges, cells[start : start + len(edges) + 2].tolist())
            start += len(edges) + 2
        return found

    def _look_at_times(self, times: Sequence[tuple[MergedSeries, NDArray[np.int64]]]) -> None:
        shapes = tuple((_time_name(merged), merged.series.edges) for merged, _ in times)
        if not shapes:
            return
        if shapes != self._shapes:  # another budget has other edges
            columns = sum(len(edges) + 2 for _, edges in shapes)
            self._latency, self._shapes = Window(LATENCY_SPAN_S, columns, _LATENCY_SLOTS), shapes
            self.budget_ns = next(m.series.budget_ns for m, _ in times if not _time_name(m))
        assert self._latency is not None
        self._latency.add(self.at_ns, np.concatenate([counted for _, counted in times]))


def _columns(name: str, labels: tuple[str, ...]) -> tuple[int, ...]:
    """Return where a counter counts; nowhere for one that no rule looks at."""
    if name in _COUNTERS:
        return (_PLACE[_COUNTERS[name]],)
    if name == "tailrace_requests_total":
        return (0, 1) if labels[1].startswith("5") else (0,)
    if name == "tailrace_feature_values_total":
        return (_PLACE["values"], _PLACE["stale"]) if labels[2] == "stale" else (_PLACE["values"],)
    return ()


def _counted(now: MergedSeries, earlier: MergedSeries | None) -> NDArray[np.int64]:
    """Return what was counted since; zeros where that cannot be known."""
    if earlier is None or earlier.series.moves_to(now.series):
        return np.zeros_like(now.cells)
    return np.asarray(np.maximum(now.cells - earlier.cells, 0))


def _kinds(now: Mapping[Key, MergedSeries], metric: str) -> dict[str, int]:
    """Return the values of a gauge of drift by kind."""
    return {labels[1]: merged.value for (name, labels), merged in now.items() if name == metric}


def _time_name(merged: MergedSeries) -> str:
    name, labels = merged.series.name, merged.series.labels
    if name == "tailrace_layer_seconds":
        return labels[1]
    return WAIT if name == "tailrace_queue_wait_seconds" else ""


PARTS: Final = (WAIT, *LAYERS)
"""What a call's time is made of."""
