"""Which series a worker counts, and where each is among the cells of its metric block. Fixed at start-up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import structs

from tailrace.deadline import LAYERS, Budget
from tailrace.monitor.histogram import edges_ns
from tailrace.monitor.metrics import (
    ACCEPTED_STAGES,
    BATCH_REASONS,
    COALESCED_ANSWERS,
    CONSUMER_FATES,
    DEGRADED_REASONS,
    DELIVERY_OUTCOMES,
    DRIFT_KINDS,
    FATES,
    LATE_OUTCOMES,
    LIMIT_REASONS,
    LOST_REASONS,
    METRICS,
    PROVENANCES,
    REFRESH_OUTCOMES,
    REMOTE_FAULTS,
    RETRIEVAL_METRICS,
    SHED_REASONS,
    SPAN_OUTCOMES,
    error_kinds,
    slug,
)
from tailrace.traffic import DIRECTIONS

ROWS_EDGES: Final = tuple(2**power for power in range(13))
"""Edges of the batch size: 1 to 4,096 rows."""


class Series(msgspec.Struct, frozen=True):
    """One metric with one set of label values, in the order of the metric's labels.

    offset, length: its cells. A histogram has a cell for each edge, one for what is above, and one for the sum.
    budget_ns: what a histogram of times is held to; 0 for none. scale_ns: the edge its edges are made from, that
    budget or the whole call's; it is exported always. bounds: the edges of another histogram, of rows say. is_shared:
    whether its cells are another series': what is counted of that is counted of it.
    """

    name: str
    labels: tuple[str, ...]
    offset: int
    length: int = 1
    bounds: tuple[int, ...] = ()
    budget_ns: int = 0
    scale_ns: int = 0
    is_shared: bool = False

    @property
    def edges(self) -> tuple[int, ...]:
        """The edges of a histogram, ascending; none where it is none."""
        return edges_ns(self.scale_ns) if self.scale_ns else self.bounds

    def moves_to(self, other: Series) -> bool:
        """Return whether the other one, of the same metric, has other edges."""
        return (self.scale_ns, self.bounds) != (other.scale_ns, other.bounds)

    @property
    def is_gauge(self) -> bool:
        """Whether it says what is now, and so begins at 0 with a new writer."""
        return METRICS[self.name].kind == "gauge"


class SeriesLayout(msgspec.Struct, frozen=True):
    """All series of one block. release: that its writer serves, a label of the requests' counters."""

    series: tuple[Series, ...]
    release: str = ""

    @property
    def cells(self) -> int:
        """How many cells they take."""
        return sum(series.length for series in self.series if not series.is_shared)

    def find(self, name: str, *labels: str) -> Series:
        """Return one series. Raises KeyError where there is none."""
        for series in self.series:
            if series.name == name and series.labels == labels:
                return series
        raise KeyError(f"no series {name}{labels}")


Branches = tuple[tuple[str, tuple[str, ...]], ...]
"""The stages at which rows go several ways, by name, and these ways."""


class PipelineShape(msgspec.Struct, frozen=True):
    """What decides a pipeline's series: name, budget, views (in the plan's order), branches.

    remote, models: the names of those that another server computes, and of those that are computed here. coalesces:
    whether requests share answers. late_checks: what is checked after the answer, by name. accepts: whether it declares
    where results go of requests that are accepted. hops: of each view the one that it is read in; all in the first
    where none are given.
    """

    name: str
    budget: Budget
    views: tuple[str, ...] = ()
    branches: Branches = ()
    remote: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    coalesces: bool = False
    late_checks: tuple[str, ...] = ()
    accepts: bool = False
    hops: tuple[int, ...] = ()


def worker_layout(pipelines: Sequence[PipelineShape], slot: int = 0, release: str = "") -> SeriesLayout:
    """Return the layout of one worker: its gauges, the failures that belong to no pipeline, and every pipeline."""
    builder = _LayoutBuilder(release)
    for name in (
        "tailrace_in_flight", "tailrace_connections", "tailrace_ready", "tailrace_limit_lease_failures_total",
        "tailrace_gc_pauses_total", "tailrace_gc_pause_seconds_total",
    ):  # fmt: skip
        builder.add(name, str(slot))
    for direction in DIRECTIONS:
        builder.add("tailrace_store_bytes_total", str(slot), direction)
    builder.add_failures("")
    for pipeline in pipelines:
        builder.add_pipeline(pipeline)
        if pipeline.accepts:
            builder.add("tailrace_accepted_total", pipeline.name)
    return SeriesLayout(tuple(builder.series), release)


def ingester_layout(streams: Sequence[str]) -> SeriesLayout:
    """Return the layout of the ingester: what became of each stream's events."""
    builder = _LayoutBuilder("")
    for stream in streams:
        for fate in FATES:
            builder.add("tailrace_events_total", stream, fate)
    return SeriesLayout(tuple(builder.series))


def consumer_layout(stream: str) -> SeriesLayout:
    """Return the layout of one consumer: what became of its stream's events, how many are to come, whether it reads."""
    builder = _LayoutBuilder("")
    for fate in CONSUMER_FATES:
        builder.add("tailrace_events_total", stream, fate)
    builder.add("tailrace_event_lag", stream)
    builder.add("tailrace_consumers", stream)
    return SeriesLayout(tuple(builder.series))


def refresher_layout(views: Sequence[tuple[str, str]]) -> SeriesLayout:
    """Return the layout of the refresher. views: the pipeline and the name of each."""
    builder = _LayoutBuilder("")
    for pipeline, view in views:
        builder.add("tailrace_view_refreshed_timestamp_seconds", pipeline, view)
        for outcome in REFRESH_OUTCOMES:
            builder.add("tailrace_refreshes_total", pipeline, view, outcome)
    return SeriesLayout(tuple(builder.series))


def courier_layout(pipelines: Sequence[str]) -> SeriesLayout:
    """Return the layout of the courier. pipelines: those that declare where results go."""
    builder = _LayoutBuilder("")
    for stage in ACCEPTED_STAGES:
        builder.add("tailrace_accepted_waiting", stage)
    builder.add("tailrace_accepted_oldest_seconds")
    for pipeline in pipelines:
        for outcome in DELIVERY_OUTCOMES:
            builder.add("tailrace_deliveries_total", pipeline, outcome)
    return SeriesLayout(tuple(builder.series))


def observer_layout(pipelines: Sequence[str]) -> SeriesLayout:
    """Return the layout of the observer: what became of each pipeline's predictions."""
    builder = _LayoutBuilder("")
    for pipeline in pipelines:
        builder.add("tailrace_predictions_logged_total", pipeline)
        for kind in DRIFT_KINDS:
            builder.add("tailrace_drift_alarms", pipeline, kind)
            builder.add("tailrace_drift_deviating", pipeline, kind)
    for reason in LOST_REASONS:
        builder.add("tailrace_predictions_lost_total", reason)
    for outcome in SPAN_OUTCOMES:
        builder.add("tailrace_spans_total", outcome)
    return SeriesLayout(tuple(builder.series))


def forwarder_layout(sink: str) -> SeriesLayout:
    """Return the layout of a forwarder. sink: where it sends the prediction log."""
    builder = _LayoutBuilder("")
    for name in ("sent_total", "unsent_total", "waiting_bytes", "waiting_seconds"):
        builder.add(f"tailrace_log_{name}", sink)
    return SeriesLayout(tuple(builder.series))


class _LayoutBuilder:
    """Lays series one behind the other."""

    def __init__(self, release: str) -> None:
        self.series: list[Series] = []
        self._release = release
        self._offset = 0

    def add_times(self, name: str, *labels: str, scale_ns: int, budget_ns: int = 0) -> None:
        """Add a histogram of times behind the last series."""
        self.add(name, *labels, edges=edges_ns(scale_ns), budget_ns=budget_ns, scale_ns=scale_ns)

    def add(self, name: str, *labels: str, edges: tuple[int, ...] = (), budget_ns: int = 0, scale_ns: int = 0) -> None:
        """Add one series behind the last. scale_ns: what the edges are made from; they are not kept then."""
        if len(labels) != len(METRICS[name].labels):
            raise ValueError(f"{name} has the labels {METRICS[name].labels}, not {labels}")
        length, bounds = len(edges) + 2 if edges else 1, () if scale_ns else edges
        self.series.append(Series(name, labels, self._offset, length, bounds, budget_ns, scale_ns))
        self._offset += length

    def add_fetches(self, pipeline: PipelineShape, scale_ns: int) -> None:
        """Add the times of a pipeline's fetches, all of them and those of each view: one fetch reads those of a hop."""
        name = pipeline.name
        self.add_times("tailrace_store_seconds", name, scale_ns=scale_ns)
        whole = self.series[-1]
        hops = dict(zip(pipeline.views, pipeline.hops or [0] * len(pipeline.views), strict=True))
        of_hop = {} if max(hops.values(), default=0) else {0: whole}
        for view, hop in hops.items():
            if hop not in of_hop:
                self.add_times("tailrace_view_seconds", name, view, scale_ns=scale_ns)
                of_hop[hop] = self.series[-1]
                continue
            shared = structs.replace(of_hop[hop], name="tailrace_view_seconds", labels=(name, view), is_shared=True)
            self.series.append(shared)

    def add_failures(self, pipeline: str) -> None:
        """Add the counters of answers and errors; the empty name is for calls of no pipeline."""
        kinds = error_kinds()
        for code in sorted({200, *(kind.status for kind in kinds)}):
            self.add("tailrace_requests_total", pipeline, str(code), self._release)
        for reason in dict.fromkeys(slug(kind) for kind in kinds):
            self.add("tailrace_errors_total", pipeline, reason)
        for reason in SHED_REASONS:
            self.add("tailrace_shed_total", pipeline, reason)
        for reason in LIMIT_REASONS:
            self.add("tailrace_rate_limited_total", pipeline, reason)

    def add_model(self, pipeline: str, model: str, scale_ns: int) -> None:
        """Add all series of one model that is computed here."""
        for reason in BATCH_REASONS:
            self.add("tailrace_model_batches_total", pipeline, model, reason)
        self.add("tailrace_model_batch_rows", pipeline, model, edges=ROWS_EDGES)
        self.add_times("tailrace_model_wait_seconds", pipeline, model, scale_ns=scale_ns)

    def add_remote(self, pipeline: str, model: str, scale_ns: int) -> None:
        """Add all series of one remote model."""
        self.add_times("tailrace_remote_seconds", pipeline, model, scale_ns=scale_ns)
        for fault in REMOTE_FAULTS:
            self.add("tailrace_remote_failures_total", pipeline, model, fault)
        for direction in DIRECTIONS:
            self.add("tailrace_remote_bytes_total", pipeline, model, direction)
        for metric in ("breaker_open", "breaker_openings_total", "connections"):
            self.add(f"tailrace_remote_{metric}", pipeline, model)

    def add_coalesced(self, pipeline: PipelineShape) -> None:
        """Add all series of what the calls of a pipeline share, where they do."""
        if pipeline.coalesces:
            for answer in COALESCED_ANSWERS:
                self.add("tailrace_coalesced_total", pipeline.name, answer)
            self.add("tailrace_coalesced_bytes", pipeline.name)

    def add_late_checks(self, pipeline: PipelineShape) -> None:
        """Add all series of what is checked of a pipeline's requests after their answers."""
        for check in pipeline.late_checks:
            for outcome in LATE_OUTCOMES:
                self.add("tailrace_late_checks_total", pipeline.name, check, outcome)

    def add_pipeline(self, pipeline: PipelineShape) -> None:
        """Add all series of one pipeline."""
        name, budget = pipeline.name, pipeline.budget
        for layer, layer_ns in zip(LAYERS, budget.layers_ns, strict=True):
            scale_ns = layer_ns or budget.total_ns
            self.add_times("tailrace_layer_seconds", name, layer, scale_ns=scale_ns, budget_ns=layer_ns)
        total_ns = budget.total_ns
        self.add_times("tailrace_request_seconds", name, scale_ns=total_ns, budget_ns=total_ns)
        self.add_times("tailrace_queue_wait_seconds", name, scale_ns=total_ns)
        self.add("tailrace_queue_rows", name)
        self.add("tailrace_capacity_rows_per_second", name)
        self.add("tailrace_batch_rows", name, edges=ROWS_EDGES)
        self.add_fetches(pipeline, budget.features_ns or total_ns)
        self.add("tailrace_store_late_total", name)
        for metric in RETRIEVAL_METRICS:
            self.add(metric, name)
        self.add("tailrace_rows_total", name)
        self.add_coalesced(pipeline)
        self.add_late_checks(pipeline)
        self.add_failures(name)
        for reason in DEGRADED_REASONS.values():
            self.add("tailrace_degraded_total", name, reason)
        for stage, labels in pipeline.branches:
            for label in labels:
                self.add("tailrace_branch_rows_total", name, stage, label)
        for model in pipeline.models:
            self.add_model(name, model, total_ns)
        for model in pipeline.remote:
            self.add_remote(name, model, budget.inference_ns or total_ns)
        for view in pipeline.views:
            for provenance in PROVENANCES:
                self.add("tailrace_feature_values_total", name, view, provenance)
