"""A dashboard of Grafana for Tailrace's metrics: what the console shows, for all servers together, from Prometheus."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgspec

SCHEMA_VERSION: Final = 38
"""Of Grafana 10; later ones bring it up to theirs."""
_SOURCE: Final = {"type": "prometheus", "uid": "${source}"}
_WIDTH: Final = 12
_HEIGHT: Final = 8
_P: Final = 'pipeline=~"$pipeline"'


class Panel(NamedTuple):
    """One chart. queries: each with what its lines are called. unit: as Grafana names it."""

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]


def _rate(metric: str, *labels: str) -> str:
    """Return what is counted a second, by labels."""
    return f"sum by ({', '.join(labels)}) (rate({metric}{{{_P}}}[$__rate_interval]))"


def _quantile(q: float, metric: str, *labels: str) -> str:
    return f"histogram_quantile({q:g}, {_rate(f'{metric}_bucket', *labels, 'le')})"


_HITS: Final = _rate("tailrace_cache_hits_total", "pipeline")
_MISSES: Final = _rate("tailrace_cache_misses_total", "pipeline")

PANELS: Final = (
    Panel("Alerts that fire", "short", ((f"sum by (pipeline, alert) (tailrace_alert_firing{{{_P}}})", "{{alert}}"),)),
    Panel("Answers a second, by status", "reqps", ((_rate("tailrace_requests_total", "code"), "{{code}}"),)),
    Panel("p50 and p99 of whole calls", "s", (
        (_quantile(0.5, "tailrace_request_seconds", "pipeline"), "p50 {{pipeline}}"),
        (_quantile(0.99, "tailrace_request_seconds", "pipeline"), "p99 {{pipeline}}"),
    )),
    Panel("p99 of each layer", "s", ((_quantile(0.99, "tailrace_layer_seconds", "layer"), "{{layer}}"),)),
    Panel("p99 of the wait in the queue", "s", (
        (_quantile(0.99, "tailrace_queue_wait_seconds", "pipeline"), "{{pipeline}}"),
    )),
    Panel("Share of answers that are a 5xx", "percentunit", (
        (f'sum by (pipeline) (rate(tailrace_requests_total{{{_P}, code=~"5.."}}[$__rate_interval]))'
         f" / {_rate('tailrace_requests_total', 'pipeline')}", "{{pipeline}}"),
    )),
    Panel("Shed and limited a second", "reqps", (
        (_rate("tailrace_shed_total", "reason"), "shed: {{reason}}"),
        (_rate("tailrace_rate_limited_total", "reason"), "limited: {{reason}}"),
    )),
    Panel("Rows answered degraded a second", "rowsps", ((_rate("tailrace_degraded_total", "reason"), "{{reason}}"),)),
    Panel("Rows a batch", "short", (
        (f"{_rate('tailrace_batch_rows_sum', 'pipeline')} / {_rate('tailrace_batch_rows_count', 'pipeline')}",
         "{{pipeline}}"),
    )),
    Panel("View rows a second, by where they came from", "rowsps", (
        (_rate("tailrace_feature_values_total", "view", "provenance"), "{{view}} {{provenance}}"),
    )),
    Panel("p99 of the store", "s", ((_quantile(0.99, "tailrace_store_seconds", "pipeline"), "{{pipeline}}"),)),
    Panel("Rows that the cache held", "percentunit", ((f"{_HITS} / ({_HITS} + {_MISSES})", "{{pipeline}}"),)),
    Panel("Breakers that are open", "short", (
        (f"sum by (pipeline) (tailrace_store_breaker_open{{{_P}}})", "store {{pipeline}}"),
        (f"sum by (pipeline, model) (tailrace_remote_breaker_open{{{_P}}})", "{{model}}"),
    )),
    Panel("Series with an alarm of drift", "short", (
        (f"sum by (pipeline, kind) (tailrace_drift_alarms{{{_P}}})", "{{pipeline}} {{kind}}"),
    )),
    Panel("How far the worst series drift; above 1 it matters", "short", (
        (f"max by (pipeline, series) (tailrace_drift_severity{{{_P}}})", "{{pipeline}} {{series}}"),
    )),
    Panel("Precision and recall of each decision, by labels that came", "percentunit", (
        (f"max by (pipeline, decision) (tailrace_outcome_precision{{{_P}}})", "precision {{pipeline}} {{decision}}"),
        (f"max by (pipeline, decision) (tailrace_outcome_recall{{{_P}}})", "recall {{pipeline}} {{decision}}"),
    )),
    Panel("Age of the rows served, the median", "s", (
        (f"max by (pipeline, view) (tailrace_feature_age_seconds{{{_P}}})", "{{pipeline}} {{view}}"),
    )),
    Panel("Predictions logged and lost a second", "reqps", (
        (_rate("tailrace_predictions_logged_total", "pipeline"), "{{pipeline}}"),
        ("sum by (reason) (rate(tailrace_predictions_lost_total[$__rate_interval]))", "lost: {{reason}}"),
    )),
    Panel("Cores that processes take", "short", (
        ("sum by (process) (rate(tailrace_process_cpu_seconds_total[$__rate_interval]))", "{{process}}"),
    )),
    Panel("Calls in flight, connections", "short", (
        ("sum(tailrace_in_flight)", "in flight"), ("sum(tailrace_connections)", "connections"),
    )),
    Panel("Memory of the workers", "bytes", (("sum by (worker) (tailrace_worker_rss_bytes)", "worker {{worker}}"),)),
    Panel("Workers replaced, releases served", "short", (
        ("sum by (worker) (increase(tailrace_worker_restarts_total[$__rate_interval]))", "replaced: {{worker}}"),
        (f"count by (release) (tailrace_release_info{{{_P}}})", "release {{release}}"),
    )),
)  # fmt: skip
"""Every chart, from what is wrong to why it is."""


def grafana_dashboard(pipelines: list[str]) -> str:
    """Return the dashboard, as Grafana imports it. pipelines: shown at first; others may be chosen."""
    document = {
        "uid": "tailrace",
        "title": "Tailrace",
        "tags": ["tailrace"],
        "schemaVersion": SCHEMA_VERSION,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_source(), _chosen(pipelines)]},
        "panels": [_panel(panel, place) for place, panel in enumerate(PANELS)],
    }
    return msgspec.json.format(msgspec.json.encode(document)).decode() + "\n"


def _source() -> dict[str, Any]:
    return {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}


def _chosen(pipelines: list[str]) -> dict[str, Any]:
    return {
        "name": "pipeline",
        "type": "query",
        "datasource": _SOURCE,
        "query": "label_values(tailrace_requests_total, pipeline)",
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "current": {"text": pipelines, "value": pipelines},
    }


def _panel(panel: Panel, place: int) -> dict[str, Any]:
    return {
        "id": place + 1,
        "type": "timeseries",
        "title": panel.title,
        "datasource": _SOURCE,
        "gridPos": {"h": _HEIGHT, "w": _WIDTH, "x": place % 2 * _WIDTH, "y": place // 2 * _HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + number), "datasource": _SOURCE, "expr": expression, "legendFormat": called}
            for number, (expression, called) in enumerate(panel.queries)
        ],
    }
