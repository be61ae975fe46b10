"""The built-in alerts as rules of Prometheus: the same windows, thresholds and times as in the server.

Prometheus reads YAML; this writes the part of it that is JSON, under a comment.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from tailrace.alerting import Alerts
from tailrace.deadline import NS_PER_S
from tailrace.monitor.alerts.rules import (
    BURN_RATES,
    CACHE_SPAN_S,
    ERRORS_MIN,
    PREDICTED,
    REQUESTS_MIN,
    ROWS_MIN,
    RULES,
    SHARE_SPAN_S,
    BurnRate,
    Rule,
)
from tailrace.monitor.alerts.sight import LATENCY_SPAN_S
from tailrace.monitor.alerts.sinks import alertname
from tailrace.pipeline import Pipeline

_HEADER: Final = """\
# Alerts of Tailrace for Prometheus, 2.42 or later. Written by `tailrace export prometheus`, with the thresholds that
# the pipelines declare.
"""


def prometheus_rules(pipelines: Sequence[Pipeline], runbooks: str = "/runbooks") -> str:
    """Return the file. runbooks: where they are, a URL."""
    groups = [
        {
            "name": f"tailrace-{pipeline.name}",
            "interval": "15s",
            "rules": list(_rules(pipeline, pipeline.alerts, runbooks)),
        }
        for pipeline in pipelines
        if pipeline.alerts is not None
    ]
    return _HEADER + msgspec.json.format(msgspec.json.encode({"groups": groups})).decode() + "\n"


def _rules(pipeline: Pipeline, alerts: Alerts, runbooks: str) -> list[dict[str, Any]]:
    found = []
    for rule in RULES:
        expression = _EXPRESSIONS[rule.name](pipeline, alerts)
        if expression is not None:
            found.append(_rule(rule, pipeline, expression, runbooks))
    return found


def _rule(rule: Rule, pipeline: Pipeline, expression: str, runbooks: str) -> dict[str, Any]:
    return {
        "alert": alertname(rule.name),
        "expr": expression,
        "for": f"{rule.for_s:g}s",
        "keep_firing_for": f"{rule.clear_s:g}s",
        "labels": {"severity": rule.severity, "service": "tailrace", "pipeline": pipeline.name},
        "annotations": {
            "summary": rule.summary,
            "description": "{{ $labels.pipeline }}: {{ $value | humanize }}",
            "runbook": f"{runbooks}/{rule.runbook}",
        },
    }


def _latency(pipeline: Pipeline, alerts: Alerts) -> str | None:
    if alerts.p99_over is None:
        return None
    span, chosen = _span(LATENCY_SPAN_S), _of(pipeline)
    limit_s = alerts.p99_over * pipeline.budget.total_ns / NS_PER_S
    return (
        f"histogram_quantile(0.99, sum by (pipeline, le) (rate(tailrace_request_seconds_bucket{chosen}[{span}])))"
        f" > {limit_s:g} and {_increase('tailrace_request_seconds_count', chosen, span)} >= {REQUESTS_MIN}"
    )


def _errors(pipeline: Pipeline, alerts: Alerts) -> str | None:
    if alerts.error_share is None:
        return None
    span = _span(SHARE_SPAN_S)
    errors = _increase("tailrace_requests_total", _of(pipeline, 'code=~"5.."'), span)
    return (
        f"{_error_share(pipeline, span)} > {alerts.error_share:g}"
        f" and {_increase('tailrace_requests_total', _of(pipeline), span)} >= {REQUESTS_MIN}"
        f" and {errors} >= {ERRORS_MIN}"
    )


def _burns(rate: BurnRate) -> Callable[[Pipeline, Alerts], str | None]:
    def write(pipeline: Pipeline, alerts: Alerts) -> str | None:
        if alerts.availability is None:
            return None
        limit = rate.rate * (1 - alerts.availability)
        long, short = _span(rate.long_s), _span(rate.short_s)
        errors = _increase("tailrace_requests_total", _of(pipeline, 'code=~"5.."'), long)
        return (
            f"{_error_share(pipeline, long)} > {limit:.6g} and {_error_share(pipeline, short)} > {limit:.6g}"
            f" and {_increase('tailrace_requests_total', _of(pipeline), short)} >= {REQUESTS_MIN}"
            f" and {errors} >= {ERRORS_MIN}"
        )

    return write


def _breaker(pipeline: Pipeline, alerts: Alerts) -> str | None:
    if not alerts.breaker:
        return None
    chosen = _of(pipeline)
    store, remote = (f"sum by (pipeline) (tailrace_{name}_breaker_open{chosen}) > 0" for name in ("store", "remote"))
    return f"{store} or {remote}"


def _stale(pipeline: Pipeline, alerts: Alerts) -> str | None:
    if alerts.stale_share is None:
        return None
    span = _span(SHARE_SPAN_S)
    rows = _increase("tailrace_feature_values_total", _of(pipeline), span)
    stale = _increase("tailrace_feature_values_total", _of(pipeline, 'provenance="stale"'), span)
    return f"{stale} / {rows} > {alerts.stale_share:g} and {rows} >= {REQUESTS_MIN}"


def _cache(pipeline: Pipeline, alerts: Alerts) -> str | None:
    if alerts.cache_hit_share is None:
        return None
    span = _span(CACHE_SPAN_S)
    hits, misses = (_increase(f"tailrace_cache_{name}_total", _of(pipeline), span) for name in ("hits", "misses"))
    return f"{hits} / ({hits} + {misses}) < {alerts.cache_hit_share:g} and {hits} + {misses} >= {ROWS_MIN}"


def _predictions(pipeline: Pipeline, alerts: Alerts) -> str | None:
    kinds = f'kind=~"{"|".join(PREDICTED)}"'
    return f"sum by (pipeline) (tailrace_drift_deviating{_of(pipeline, kinds)}) > 0" if alerts.predictions else None


def _drift(pipeline: Pipeline, alerts: Alerts) -> str | None:
    return f"sum by (pipeline) (tailrace_drift_alarms{_of(pipeline)}) > 0" if alerts.drift else None


_EXPRESSIONS: Final[dict[str, Callable[[Pipeline, Alerts], str | None]]] = {
    "latency": _latency,
    "errors": _errors,
    **{name: _burns(rate) for name, rate in BURN_RATES.items()},
    "breaker": _breaker,
    "stale": _stale,
    "cache": _cache,
    "predictions": _predictions,
    "drift": _drift,
}


def _error_share(pipeline: Pipeline, span: str) -> str:
    """Return the share of the answers that are a 5xx, over all servers."""
    errors, all_ = _of(pipeline, 'code=~"5.."'), _of(pipeline)
    return (
        f"sum by (pipeline) (rate(tailrace_requests_total{errors}[{span}]))"
        f" / sum by (pipeline) (rate(tailrace_requests_total{all_}[{span}]))"
    )


def _increase(metric: str, chosen: str, span: str) -> str:
    return f"sum by (pipeline) (increase({metric}{chosen}[{span}]))"


def _of(pipeline: Pipeline, *more: str) -> str:
    """Return the labels that choose a pipeline's series."""
    name = msgspec.json.encode(pipeline.name).decode()
    return "{" + ", ".join([f"pipeline={name}", *more]) + "}"


def _span(seconds: float) -> str:
    return f"{seconds / 60:g}m"
