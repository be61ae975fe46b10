"""The /metrics page: merged metrics in Prometheus' text format, or in OpenMetrics', through prometheus-client.

A histogram keeps about 1,400 buckets and exports some 35 of them (`export_edges`): exact at the budget, 26% apart
around it, octaves elsewhere. In OpenMetrics a bucket of the calls' times has the last trace that fell into it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST as OPEN_CONTENT_TYPE_LATEST
from prometheus_client.openmetrics.exposition import generate_latest as generate_open
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar as Written

from tailrace.deadline import NS_PER_S
from tailrace.monitor import metrics as table
from tailrace.monitor.exemplars import Exemplar
from tailrace.monitor.histogram import export_edges
from tailrace.monitor.merged import Key, MergedMetrics, MergedSeries

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
OPEN_CONTENT_TYPE: Final = OPEN_CONTENT_TYPE_LATEST
_WITH_EXEMPLARS: Final = "tailrace_request_seconds"


def expose(
    merged: MergedMetrics,
    supervisor: dict[Key, float],
    exemplars: Mapping[str, Sequence[Exemplar]] = MappingProxyType({}),
    *,
    is_open: bool = False,
) -> bytes:
    """Return the page. supervisor: the values of the metrics that the supervisor owns, by name and labels.

    is_open: whether in OpenMetrics' form. exemplars: of the calls of each pipeline; the other form has none.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_MergedCollector(merged, supervisor, exemplars if is_open else {}))
    return generate_open(registry) if is_open else generate_latest(registry)  # type: ignore[no-untyped-call]


class _MergedCollector(Collector):
    """Gives the metric families of the table, in its order."""

    def __init__(
        self, merged: MergedMetrics, supervisor: dict[Key, float], exemplars: Mapping[str, Sequence[Exemplar]]
    ) -> None:
        self._merged: dict[str, list[tuple[tuple[str, ...], MergedSeries]]] = {}
        for (name, labels), series in merged.series.items():
            self._merged.setdefault(name, []).append((labels, series))
        self._supervisor = supervisor
        self._exemplars = exemplars

    def describe(self) -> Iterable[Metric]:
        """Nothing: the registry is used once."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Give each family, also one that has no series."""
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
            own = self._exemplars.get(labels[0], ()) if metric.name == _WITH_EXEMPLARS else ()
            family.add_metric(
                labels, _with_exemplars(_buckets(merged, metric.unit), own), int(merged.cells[-1]) * scale
            )
        return family


def _buckets(merged: MergedSeries, unit: str) -> list[tuple[str, float]]:
    """Return the cumulative counts up to each exported edge, and to infinity."""
    places, bounds = _exported(merged.series.edges, merged.series.scale_ns, NS_PER_S if unit == "ns" else 1)
    cumulative = merged.cells[:-1].cumsum()[places].tolist()
    return list(zip(bounds, cumulative, strict=True))


def _with_exemplars(buckets: list[tuple[str, float]], exemplars: Sequence[Exemplar]) -> list[Any]:
    """Return the buckets, each with the last exemplar that is in it."""
    if not exemplars:
        return buckets
    bounds, found = [float(bound) for bound, _ in buckets], dict[int, Exemplar]()
    for exemplar in sorted(exemplars, key=lambda each: each.at_s):
        found[bisect_left(bounds, exemplar.whole_ns / NS_PER_S)] = exemplar
    return [
        (*bucket, Written({"trace_id": each.trace}, each.whole_ns / NS_PER_S, each.at_s))
        if (each := found.get(place))
        else bucket
        for place, bucket in enumerate(buckets)
    ]


@lru_cache(maxsize=512)
def _exported(edges: tuple[int, ...], scale_ns: int, divisor: int) -> tuple[list[int], list[str]]:
    """Return the places of the exported buckets, and their bounds as they are written."""
    places = export_edges(edges, scale_ns)
    return [*places, len(edges)], [*(repr(edges[place] / divisor) for place in places), "+Inf"]
