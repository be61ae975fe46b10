"""What the workers have counted, merged: read by /metrics, /status, `tailrace check` and the printed budget tables."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from tailrace.deadline import LAYERS, NS_PER_S
from tailrace.monitor.histogram import Histogram
from tailrace.monitor.layout import Series, SeriesLayout

Key = tuple[str, tuple[str, ...]]
"""A metric's name and its label values."""


class ReadableBlock(Protocol):
    """A `BlockReader`, or a `MetricBlock` of this process."""

    def read(self) -> tuple[SeriesLayout, NDArray[np.uint64]] | None:
        """Return the layout and a copy of the cells; None while there is nothing whole."""
        ...


@dataclass(frozen=True, slots=True)
class MergedSeries:
    """One series, summed over the blocks. cells: shape (length,), as in the block."""

    series: Series
    cells: NDArray[np.int64]

    @property
    def value(self) -> int:
        """The value of a counter or gauge."""
        return int(self.cells[0])

    def histogram(self) -> Histogram:
        """Return a histogram of these cells."""
        return Histogram(self.series.edges, self.cells.tolist())

    def plus(self, other: MergedSeries) -> MergedSeries:
        """Return the sum; the other is moved to this one's edges where they differ."""
        cells = other.cells
        if other.series.edges != self.series.edges:
            cells = np.array(other.histogram().rebin(self.series.edges).cells, dtype=np.int64)
        return MergedSeries(self.series, self.cells + cells)

    def minus(self, earlier: MergedSeries) -> MergedSeries:
        """Return what was counted after `earlier`; all of it where a worker began again in between."""
        same = earlier.series.edges == self.series.edges and bool((self.cells >= earlier.cells).all())
        return MergedSeries(self.series, self.cells - earlier.cells) if same else self


@dataclass(frozen=True, slots=True)
class MergedMetrics:
    """All series of all blocks at one time. span_s: the time they cover; 0 for since the beginning."""

    series: dict[Key, MergedSeries]
    at_ns: int
    span_s: float = 0.0

    def since(self, earlier: MergedMetrics) -> MergedMetrics:
        """Return what was counted after `earlier`. Gauges stay as they are."""
        moved = {
            key: merged if merged.series.is_gauge or key not in earlier.series else merged.minus(earlier.series[key])
            for key, merged in self.series.items()
        }
        return MergedMetrics(moved, self.at_ns, (self.at_ns - earlier.at_ns) / NS_PER_S)

    def value(self, name: str, *labels: str) -> int:
        """Return one counter or gauge; 0 where it is not there."""
        merged = self.series.get((name, labels))
        return merged.value if merged else 0

    def histogram(self, name: str, *labels: str) -> Histogram:
        """Return one histogram. Raises KeyError where it is not there."""
        return self.series[name, labels].histogram()


class Timing(msgspec.Struct, frozen=True):
    """How long something took, against its budget (0: none). The quantiles are None while nothing was counted."""

    budget_ns: int
    count: int
    p50_ns: float | None = None
    p99_ns: float | None = None
    mean_ns: float | None = None


class PipelineSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """One pipeline over a span of time. requests: calls answered in any way; within_budget: share of the answered."""

    name: str
    requests: int
    requests_per_s: float | None
    rows: int
    rows_per_batch: float | None
    whole: Timing
    wait: Timing
    layers: dict[str, Timing]
    within_budget: float | None
    codes: dict[str, int]
    degraded: dict[str, int]
    shed: dict[str, int]
    rate_limited: dict[str, int]
    errors: dict[str, int]
    features: dict[str, dict[str, int]]
    coalesced: dict[str, int]
    coalesced_share: float | None


def merge_blocks(blocks: Iterable[ReadableBlock], at_ns: int | None = None) -> MergedMetrics:
    """Read every block and sum them by series. Blocks that are not whole yet are left out."""
    found: dict[Key, MergedSeries] = {}
    for block in blocks:
        read = block.read()
        if read is None:
            continue
        layout, cells = read
        signed = cells.astype(np.int64)
        for series in layout.series:
            merged = MergedSeries(series, signed[series.offset : series.offset + series.length])
            key = (series.name, series.labels)
            found[key] = found[key].plus(merged) if key in found else merged
    return MergedMetrics(found, time.monotonic_ns() if at_ns is None else at_ns)


def pipeline_snapshots(metrics: MergedMetrics) -> tuple[PipelineSnapshot, ...]:
    """Return each pipeline's figures, in the order of the layout; rates only over a span (`metrics.since(…)`)."""
    counted: dict[str, dict[str, dict[tuple[str, ...], int]]] = {}
    for (name, labels), merged in metrics.series.items():
        if len(labels) > 1 and len(merged.cells) == 1 and merged.value:
            counted.setdefault(labels[0], {}).setdefault(name, {})[labels[1:]] = merged.value
    names = [labels[0] for name, labels in metrics.series if name == "tailrace_request_seconds"]
    return tuple(_pipeline_snapshot(metrics, name, counted.get(name, {})) for name in names)


def _pipeline_snapshot(
    metrics: MergedMetrics, name: str, counted: dict[str, dict[tuple[str, ...], int]]
) -> PipelineSnapshot:
    """Gather one pipeline's figures. counted: its labelled counters by metric and remaining labels, zeros left out."""

    def by_label(metric: str) -> dict[str, int]:
        found: dict[str, int] = {}
        for labels, value in counted.get(metric, {}).items():  # of all releases
            found[labels[0]] = found.get(labels[0], 0) + value
        return found

    codes = by_label("tailrace_requests_total")
    requests, rows = sum(codes.values()), metrics.value("tailrace_rows_total", name)
    batches = metrics.histogram("tailrace_batch_rows", name).count
    whole = metrics.series["tailrace_request_seconds", (name,)]
    answered = whole.histogram()
    coalesced = by_label("tailrace_coalesced_total")
    features: dict[str, dict[str, int]] = {}
    for (view, provenance), values in counted.get("tailrace_feature_values_total", {}).items():
        features.setdefault(view, {})[provenance] = values
    return PipelineSnapshot(
        name=name,
        requests=requests,
        requests_per_s=requests / metrics.span_s if metrics.span_s else None,
        rows=rows,
        rows_per_batch=rows / batches if batches else None,
        whole=_timing(whole),
        wait=_timing(metrics.series["tailrace_queue_wait_seconds", (name,)]),
        layers={layer: _timing(metrics.series["tailrace_layer_seconds", (name, layer)]) for layer in LAYERS},
        within_budget=answered.count_up_to(whole.series.budget_ns) / answered.count if answered.count else None,
        codes=codes,
        degraded=by_label("tailrace_degraded_total"),
        shed=by_label("tailrace_shed_total"),
        rate_limited=by_label("tailrace_rate_limited_total"),
        errors=by_label("tailrace_errors_total"),
        features=features,
        coalesced=coalesced,
        coalesced_share=sum(coalesced.values()) / requests if requests and coalesced else None,
    )


def _timing(merged: MergedSeries) -> Timing:
    """Return the figures of a histogram of times."""
    histogram, budget_ns = merged.histogram(), merged.series.budget_ns
    count = histogram.count
    if not count:
        return Timing(budget_ns, 0)
    return Timing(budget_ns, count, histogram.quantile(0.5), histogram.quantile(0.99), histogram.sum / count)
