"""What was counted over the last minute and the last ten, and how long things took then; in constant memory.

Of each second what came is added to slots of a few seconds (`Window`). A minute takes twelve of all cells and ten
minutes ten, 2.5 MB a pipeline, however long the server runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec
import numpy as np

from tailrace.monitor.merged import Index, MergedMetrics, MergedSeries
from tailrace.monitor.window import Window

SPANS: Final = {"1m": (60.0, 12), "10m": (600.0, 10)}
"""Seconds and slots, by the name on /status."""
QUANTILES: Final = (0.5, 0.95, 0.99)


class Quantiles(msgspec.Struct, frozen=True):
    """How long something took over a span, in nanoseconds; count: how often. None where it was not."""

    count: int
    p50_ns: float | None = None
    p95_ns: float | None = None
    p99_ns: float | None = None


class Latencies(msgspec.Struct, frozen=True, kw_only=True):
    """How long a pipeline's calls took over a span, and the parts of that.

    whole: from arrival to answer; wait: for the batch. store: of its fetches; views: of those that each view is read
    with. releases: in the inference layer, by release. remote: calls of remote models; models: the wait for an
    instance of a heavy one. Views, releases and models that nothing was counted of are left out.
    """

    whole: Quantiles
    wait: Quantiles
    store: Quantiles
    layers: dict[str, Quantiles] = {}
    views: dict[str, Quantiles] = {}
    releases: dict[str, Quantiles] = {}
    remote: dict[str, Quantiles] = {}
    models: dict[str, Quantiles] = {}


_WHOLE: Final = {
    "whole": "tailrace_request_seconds",
    "wait": "tailrace_queue_wait_seconds",
    "store": "tailrace_store_seconds",
}
_PARTS: Final = {
    "tailrace_layer_seconds": "layers",
    "tailrace_view_seconds": "views",
    "tailrace_inference_seconds": "releases",
    "tailrace_remote_seconds": "remote",
    "tailrace_model_wait_seconds": "models",
}


class Recent:
    """Adds what is merged once a second, and tells of the spans."""

    def __init__(self) -> None:
        self._last: MergedMetrics | None = None
        self._index: Index | None = None
        self._windows: dict[str, Window] = {}

    def add(self, metrics: MergedMetrics) -> None:
        """Take in what was counted since the last time; the first time, all of it. metrics: of a `Merger`."""
        counted = metrics if self._last is None else metrics.since(self._last)
        self._last = metrics
        if counted.index is None or counted.cells is None or not counted.index.cells:
            return
        if counted.index is not self._index:
            self._move(counted.index)
        for window in self._windows.values():
            window.add(metrics.at_ns, counted.cells)

    def over(self, span: str) -> MergedMetrics | None:
        """Return what was counted over a span of `SPANS`; None before anything was added. Gauges mean nothing there."""
        if self._last is None or self._index is None:
            return None
        cells = self._windows[span].sums(self._last.at_ns)
        return MergedMetrics.of(self._index, cells, self._last.at_ns, SPANS[span][0])

    def latencies(self) -> dict[str, dict[str, Latencies]]:
        """Return how long the calls of each pipeline took, by span and pipeline."""
        return {span: _latencies(metrics) for span in SPANS if (metrics := self.over(span)) is not None}

    def _move(self, index: Index) -> None:
        """Go on with other series; what was counted of those that there still are is taken along."""
        windows = {name: Window(span_s, index.cells, slots) for name, (span_s, slots) in SPANS.items()}
        if self._index is not None:
            pairs = list(_pairs(self._index, index))
            for name, window in windows.items():
                window.take_over(self._windows[name], pairs)
        self._index, self._windows = index, windows


def _pairs(earlier: Index, index: Index) -> Iterator[tuple[slice, slice]]:
    """Give the cells of each series that both have, with the same edges."""
    for key, place in index.places.items():
        before = earlier.places.get(key)
        if before is not None and not earlier.series[key].moves_to(index.series[key]):
            yield slice(*before), slice(*place)


def _latencies(metrics: MergedMetrics) -> dict[str, Latencies]:
    """Return how long the calls of each pipeline took, by pipeline."""
    found: dict[str, Any] = {}
    for (name, labels), merged in metrics.series.items():
        if name == _WHOLE["whole"]:
            found.setdefault(labels[0], {})
        elif (part := _PARTS.get(name)) is not None and (told := _quantiles(merged)).count:
            found.setdefault(labels[0], {}).setdefault(part, {})[labels[1]] = told
    for pipeline, parts in found.items():
        parts |= {field: _quantiles(metrics.series[name, (pipeline,)]) for field, name in _WHOLE.items()}
    return {pipeline: Latencies(**parts) for pipeline, parts in found.items()}


def _quantiles(merged: MergedSeries) -> Quantiles:
    """Return the figures of a histogram of times."""
    count = merged.count
    return Quantiles(count, *np.round(merged.quantiles(*QUANTILES)).tolist()) if count else Quantiles(0)
