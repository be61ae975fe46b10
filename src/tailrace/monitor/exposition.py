"""The /metrics page: merged metrics in Prometheus' text format, through prometheus-client.

A histogram keeps about 180 buckets and exports some 35 of them (`export_edges`): exact at the budget, 26% apart
around it, octaves elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from tailrace.deadline import NS_PER_S
from tailrace.monitor import metrics as table
from tailrace.monitor.histogram import export_edges
from tailrace.monitor.snapshot import Key, MergedMetrics, MergedSeries

CONTENT_TYPE = CONTENT_TYPE_LATEST


def expose(merged: MergedMetrics, supervisor: dict[Key, float]) -> bytes:
    """Return the page. supervisor: the values of the metrics that the supervisor owns, by name and labels."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_MergedCollector(merged, supervisor))
    return generate_latest(registry)


class _MergedCollector(Collector):
    """Gives the metric families of the table, in its order."""

    def __init__(self, merged: MergedMetrics, supervisor: dict[Key, float]) -> None:
        self._merged = merged
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
        for (name, labels), merged in self._merged.series.items():
            if name == metric.name:
                family.add_metric(labels, merged.value / NS_PER_S if metric.unit == "ns" else merged.value)
        return family

    def _histogram(self, metric: table.Metric) -> Metric:
        """Return the family of a histogram."""
        family = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
        scale = 1 / NS_PER_S if metric.unit == "ns" else 1.0
        for (name, labels), merged in self._merged.series.items():
            if name == metric.name:
                family.add_metric(labels, _buckets(merged, metric.unit), int(merged.cells[-1]) * scale)
        return family


def _buckets(merged: MergedSeries, unit: str) -> list[tuple[str, float]]:
    """Return the cumulative counts up to each exported edge, and to infinity."""
    edges = merged.series.edges
    cumulative = merged.cells[:-1].cumsum().tolist()
    divisor = NS_PER_S if unit == "ns" else 1
    buckets = [
        (repr(edges[position] / divisor), cumulative[position])
        for position in export_edges(edges, merged.series.scale_ns)
    ]
    return [*buckets, ("+Inf", cumulative[-1])]
