"""What the console shows of one pipeline: its figures over a short span, from the merged metrics."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from tailrace.deadline import LAYERS, NS_PER_MS
from tailrace.monitor.merged import MergedMetrics
from tailrace.monitor.snapshot import PipelineSnapshot, Timing, pipeline_snapshots

HEAT_OCTAVES: Final = (-9, 2)
"""The heatmap's rows reach from this many octaves under the budget to so many above it, ..."""
HEAT_ROWS_PER_OCTAVE: Final = 3
HEAT_ROWS: Final = (HEAT_OCTAVES[1] - HEAT_OCTAVES[0]) * HEAT_ROWS_PER_OCTAVE + 1
"""... and one more holds what is above them. What is under the lowest counts in it."""


class Point(msgspec.Struct, frozen=True):
    """One pipeline over one step of the history. at_s: its end, since the epoch. Rates are a second, times in ms.

    None where nothing was counted. degraded: rows, for the reason that most are; one may have several. failed: answers
    of 5xx that are no sheds. batch: rows, the mean. heat: the answers by latency, from the row `heat[0]` on; empty for
    none.
    """

    at_s: float
    offered: float
    served: float
    shed: float
    degraded: float
    failed: float
    p50: float | None
    p99: float | None
    wait: float | None
    batch: float | None
    heat: list[int]


class LayerFigures(msgspec.Struct, frozen=True):
    """One layer, in ms. budget: 0 for none."""

    name: str
    budget: float
    p50: float | None
    p99: float | None


class ViewFigures(msgspec.Struct, frozen=True):
    """Rows of one view a second, by source. age_s: since the batch view was last whole, if that is known."""

    name: str
    values: dict[str, float]
    age_s: float | None


class VersionFigures(msgspec.Struct, frozen=True):
    """One release of a pipeline: the share of its calls, their rate, and the share that failed with 5xx.

    p50, p99: of a call's time in the model, ms.
    """

    release: str
    rate: float
    share: float
    failed: float
    p50: float | None
    p99: float | None


class PipelineFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One pipeline over the last seconds. Rates are a second, shares of the calls, times in ms.

    waiting: rows taken and not yet answered, now; capacity: rows that all workers could answer a second, 0 where they
    have learned nothing yet.
    """

    name: str
    budget: float
    p50: float | None
    p99: float | None
    within: float | None
    offered: float
    shed: float
    degraded: float
    failed: float
    shed_by: dict[str, float]
    degraded_by: dict[str, float]
    errors_by: dict[str, float]
    waiting: int
    capacity: int
    wait: LayerFigures
    layers: list[LayerFigures]
    views: list[ViewFigures]
    cache: float | None
    breakers: int
    versions: list[VersionFigures]


def points_of(metrics: MergedMetrics, at_s: float) -> dict[str, Point]:
    """Return one point a pipeline. metrics: of one step, `later.since(earlier)`."""
    return {each.name: _point(metrics, each, at_s) for each in pipeline_snapshots(metrics)}


def figures_of(metrics: MergedMetrics, at_s: float) -> list[PipelineFigures]:
    """Return the figures of each pipeline. metrics: of the last seconds; at_s: the time, since the epoch."""
    return [_figures(metrics, each, at_s) for each in pipeline_snapshots(metrics)]


def _point(metrics: MergedMetrics, snapshot: PipelineSnapshot, at_s: float) -> Point:
    """Return the point of one pipeline."""
    span_s = metrics.span_s or 1.0
    return Point(
        at_s=round(at_s, 1),
        offered=_rate(snapshot.requests, span_s),
        served=_rate(snapshot.codes.get("200", 0), span_s),
        shed=_rate(sum(snapshot.shed.values()), span_s),
        degraded=_rate(max(snapshot.degraded.values(), default=0), span_s),
        failed=_rate(_failed(snapshot.codes, sum(snapshot.shed.values())), span_s),
        p50=_ms(snapshot.whole.p50_ns),
        p99=_ms(snapshot.whole.p99_ns),
        wait=_ms(snapshot.wait.p99_ns),
        batch=None if snapshot.rows_per_batch is None else round(snapshot.rows_per_batch, 2),
        heat=_heat(metrics, snapshot.name),
    )


def _figures(metrics: MergedMetrics, snapshot: PipelineSnapshot, at_s: float) -> PipelineFigures:
    """Return the figures of one pipeline."""
    span_s, name, calls = metrics.span_s or 1.0, snapshot.name, snapshot.requests
    shed = sum(snapshot.shed.values())
    hits, misses = (metrics.value(f"tailrace_cache_{which}_total", name) for which in ("hits", "misses"))
    return PipelineFigures(
        name=name,
        budget=round(snapshot.whole.budget_ns / NS_PER_MS, 3),
        p50=_ms(snapshot.whole.p50_ns),
        p99=_ms(snapshot.whole.p99_ns),
        within=snapshot.within_budget,
        offered=_rate(calls, span_s),
        shed=_share(shed, calls),
        degraded=_share(max(snapshot.degraded.values(), default=0), snapshot.rows),
        failed=_share(_failed(snapshot.codes, shed), calls),
        shed_by={reason: _share(count, calls) for reason, count in snapshot.shed.items()},
        degraded_by={reason: _share(count, snapshot.rows) for reason, count in snapshot.degraded.items()},
        errors_by={reason: _rate(count, span_s) for reason, count in snapshot.errors.items()},
        waiting=metrics.value("tailrace_queue_rows", name),
        capacity=metrics.value("tailrace_capacity_rows_per_second", name),
        wait=_layer("queue wait", snapshot.wait),
        layers=[_layer(layer, snapshot.layers[layer]) for layer in LAYERS],
        views=_views(metrics, name, span_s, at_s),
        cache=hits / (hits + misses) if hits + misses else None,
        breakers=metrics.value("tailrace_store_breaker_open", name) + _remote_breakers(metrics, name),
        versions=_versions(metrics, name, span_s),
    )


def _views(metrics: MergedMetrics, pipeline: str, span_s: float, at_s: float) -> list[ViewFigures]:
    """Return the figures of each view of a pipeline, in the layout's order, those that were not read too."""
    values: dict[str, dict[str, float]] = {}
    for (name, labels), merged in metrics.series.items():
        if name == "tailrace_feature_values_total" and labels[0] == pipeline:
            values.setdefault(labels[1], {})[labels[2]] = _rate(merged.value, span_s)
    found = []
    for view, by_source in values.items():
        whole_s = metrics.value("tailrace_view_refreshed_timestamp_seconds", pipeline, view)
        found.append(ViewFigures(view, by_source, round(max(at_s - whole_s, 0.0), 1) if whole_s else None))
    return found


def _versions(metrics: MergedMetrics, pipeline: str, span_s: float) -> list[VersionFigures]:
    """Return the releases that have answered calls of a pipeline, each against all of them."""
    codes: dict[str, dict[str, int]] = {}
    for (name, labels), merged in metrics.series.items():
        if name == "tailrace_requests_total" and labels[0] == pipeline and merged.value:
            codes.setdefault(labels[2], {})[labels[1]] = merged.value
    total = sum(sum(counts.values()) for counts in codes.values())
    found = []
    for release, counts in codes.items():
        calls, timed = sum(counts.values()), metrics.series.get(("tailrace_inference_seconds", (pipeline, release)))
        p50_ns, p99_ns = timed.quantiles(0.5, 0.99) if timed is not None and timed.count else (None, None)
        failed = _share(_failed(counts, 0), calls)
        found.append(
            VersionFigures(release, _rate(calls, span_s), _share(calls, total), failed, _ms(p50_ns), _ms(p99_ns))
        )
    return found


def _remote_breakers(metrics: MergedMetrics, pipeline: str) -> int:
    """Return how many workers' breakers leave a remote model of a pipeline alone."""
    return sum(
        merged.value
        for (name, labels), merged in metrics.series.items()
        if name == "tailrace_remote_breaker_open" and labels[0] == pipeline
    )


def _heat(metrics: MergedMetrics, pipeline: str) -> list[int]:
    """Return the answers by latency: the first row that holds one, and the counts from there to the last that does."""
    merged = metrics.series["tailrace_request_seconds", (pipeline,)]
    rows = np.bincount(
        _heat_rows(merged.series.edges, merged.series.budget_ns), weights=merged.cells[:-1], minlength=HEAT_ROWS
    ).astype(np.int64)
    held = np.flatnonzero(rows > 0)
    return [int(held[0]), *rows[held[0] : held[-1] + 1].tolist()] if held.size else []


@lru_cache(maxsize=256)
def _heat_rows(edges: tuple[int, ...], budget_ns: int) -> NDArray[np.int64]:
    """Return the row of each bucket of a histogram, by its upper edge."""
    lowest = HEAT_OCTAVES[0] * HEAT_ROWS_PER_OCTAVE
    steps = np.ceil(np.log2(np.array(edges) / budget_ns) * HEAT_ROWS_PER_OCTAVE - 0.01).astype(np.int64) - lowest - 1
    rows: NDArray[np.int64] = np.clip(np.append(steps, HEAT_ROWS), 0, HEAT_ROWS - 1)
    return rows


def _layer(name: str, timing: Timing) -> LayerFigures:
    return LayerFigures(name, round(timing.budget_ns / NS_PER_MS, 3), _ms(timing.p50_ns), _ms(timing.p99_ns))


def _failed(codes: dict[str, int], shed: int) -> int:
    """Return how many answers were 5xx for another reason than lack of time or room."""
    return max(sum(count for code, count in codes.items() if code.startswith("5")) - shed, 0)


def _ms(time_ns: float | None) -> float | None:
    """Return a time in ms with three digits; None where there is none."""
    return None if time_ns is None or math.isnan(time_ns) else float(f"{time_ns / NS_PER_MS:.3g}")


def _rate(count: int, span_s: float) -> float:
    return float(f"{count / span_s:.4g}")


def _share(count: int, of: int) -> float:
    return float(f"{count / of:.4g}") if of else 0.0
