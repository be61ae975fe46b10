"""The /metrics page: merged metrics in Prometheus' text format, through prometheus-client.

A histogram keeps about 1,400 buckets and exports some 35 of them (`export_edges`): exact at the budget, 26% apart
around it, octaves elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from tailrace.deadline import NS_PER_S
from tailrace.monitor import metrics as table
from tailrace.monitor.histogram import export_edges
from tailrace.monitor.merged import Key, MergedMetrics, MergedSeries

CONTENT_TYPE = CONTENT_TYPE_LATEST


def expose(merged: MergedMetrics, supervisor: dict[Key, float]) -> bytes:
    """Return the page. supervisor: the values of the metrics that the supervisor owns, by name and labels."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_MergedCollector(merged, supervisor))
    return generate_latest(registry)


class _MergedCollector(Collector):
    """Gives the metric families of the table, in its order."""

    def __init__(self, merged: MergedMetrics, supervisor: dict[Key, float]) -> None:
        self._merged: dict[str, list[tuple[tuple[str, ...], MergedSeries]]] = {}
        for (name, labels), series in merged.series.items():
            self._merged.setdefault(name, []).append((labels, series))
        self._supervisor = supervisor

    def describe(self) -> Iterable[Metric]:
        """Nothing: the registry is used once."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Give each family that has a series."""
        for metric in table.METRICS.values():
            if metric.kind == "histogram":
                yield self._histogram(metric)
            else:
                yield self._values(metric)

    def _values(self, metric: table.Metric) -> Metric:
        """Return the family of a counter or gauge."""
        kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
        family = kind(metric.name, metric.help, labels=metric.labels)
        for (name, labels), value in self._supervisor.items():
            if name == metric.name:
                family.add_metric(labels, value)
        for labels, merged in self._merged.get(metric.name, ()):
            family.add_metric(labels, merged.value / NS_PER_S if metric.unit == "ns" else merged.value)
        return family

    def _histogram(self, metric: table.Metric) -> Metric:
        """Return the family of a histogram."""
        family = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
        scale = 1 / NS_PER_S if metric.unit == "ns" else 1.0
        for labels, merged in self._merged.get(metric.name, ()):
            family.add_metric(labels, _buckets(merged, metric.unit), int(merged.cells[-1]) * scale)
        return family


def _buckets(merged: MergedSeries, unit: str) -> list[tuple[str, float]]:
    """Return the cumulative counts up to each exported edge, and to infinity."""
    places, bounds = _exported(merged.series.edges, merged.series.scale_ns, NS_PER_S if unit == "ns" else 1)
    cumulative = merged.cells[:-1].cumsum()[places].tolist()
    return list(zip(bounds, cumulative, strict=True))


@lru_cache(maxsize=512)
def _exported(edges: tuple[int, ...], scale_ns: int, divisor: int) -> tuple[list[int], list[str]]:
    """Return the places of the exported buckets, and their bounds as they are written."""
    places = export_edges(edges, scale_ns)
    return [*places, len(edges)], [*(repr(edges[place] / divisor) for place in places), "+Inf"]
