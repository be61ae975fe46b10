"""What the workers have counted, merged: read by /metrics, /status, `tailrace check` and the printed budget tables."""

from __future__ import annotations

import msgspec

from tailrace.deadline import LAYERS
from tailrace.monitor.merged import MergedMetrics, MergedSeries


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
    batches = metrics.series["tailrace_batch_rows", (name,)].count
    whole = metrics.series["tailrace_request_seconds", (name,)]
    answered, budget_ns = whole.count, whole.series.budget_ns
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
        within_budget=whole.count_up_to(budget_ns) / answered if answered else None,
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
    budget_ns, count = merged.series.budget_ns, merged.count
    if not count:
        return Timing(budget_ns, 0)
    p50_ns, p99_ns = merged.quantiles(0.5, 0.99)
    return Timing(budget_ns, count, p50_ns, p99_ns, int(merged.cells[-1]) / count)
