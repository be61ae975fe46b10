"""The table of all metrics: names, types, labels, units. Nothing else is exported."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from tailrace.batch import Degraded, Provenance
from tailrace.errors import ServingError
from tailrace.features.updates import Fate
from tailrace.inference.batching import Reason
from tailrace.inference.remote.failure import RemoteFault

Kind = Literal["counter", "gauge", "histogram"]
Unit = Literal["", "ns"]
Owner = Literal["worker", "ingester", "consumer", "refresher", "courier", "observer", "forwarder", "supervisor"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: how it is exported. Times are kept in nanoseconds and exported in seconds (`unit` ns).

    owner: who counts it, each worker, the ingester, a consumer, the refresher, the courier, the observer or a
    forwarder in its shared block, or the supervisor itself. Events are counted by the ingester, and by each consumer
    that brings some.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    unit: Unit = ""
    owner: Owner = "worker"


_TABLE: Final = (
    Metric("tailrace_layer_seconds", "histogram", "Time a call spent in one layer.", ("pipeline", "layer"), "ns"),
    Metric(
        "tailrace_inference_seconds", "histogram", "That of the inference layer, by release.", ("pipeline", "release"),
        "ns",
    ),
    Metric("tailrace_request_seconds", "histogram", "A call's earliest arrival to its answer.", ("pipeline",), "ns"),
    Metric("tailrace_queue_wait_seconds", "histogram", "A call's wait, in its socket too.", ("pipeline",), "ns"),
    Metric("tailrace_queue_rows", "gauge", "Rows taken and not yet answered, all workers.", ("pipeline",)),
    Metric(
        "tailrace_capacity_rows_per_second", "gauge", "Rows that all workers could answer, as they have learned.",
        ("pipeline",),
    ),
    Metric("tailrace_batch_rows", "histogram", "Rows a batch scored.", ("pipeline",)),
    Metric(
        "tailrace_model_batches_total", "counter", "Batches of a heavy model, by reason.",
        ("pipeline", "model", "reason"),
    ),
    Metric("tailrace_model_batch_rows", "histogram", "Rows of a batch of a heavy model.", ("pipeline", "model")),
    Metric(
        "tailrace_model_wait_seconds", "histogram", "Wait of such a batch's oldest row.", ("pipeline", "model"), "ns"
    ),
    Metric("tailrace_remote_seconds", "histogram", "Time a call of a remote model took.", ("pipeline", "model"), "ns"),
    Metric(
        "tailrace_remote_failures_total", "counter", "Calls of a remote model that gave no score.",
        ("pipeline", "model", "reason"),
    ),
    Metric(
        "tailrace_remote_breaker_open", "gauge", "Workers whose breaker leaves a remote model alone.",
        ("pipeline", "model"),
    ),
    Metric("tailrace_remote_breaker_openings_total", "counter", "Times it has opened.", ("pipeline", "model")),
    Metric("tailrace_remote_connections", "gauge", "Connections to its server, all workers.", ("pipeline", "model")),
    Metric(
        "tailrace_remote_bytes_total", "counter", "Bytes to and from its server.", ("pipeline", "model", "direction")
    ),
    Metric("tailrace_store_seconds", "histogram", "Time one fetch from the store took.", ("pipeline",), "ns"),
    Metric(
        "tailrace_view_seconds", "histogram", "That of the fetches which read a view.", ("pipeline", "view"), "ns"
    ),
    Metric("tailrace_store_late_total", "counter", "Fetches that were not done by their deadline.", ("pipeline",)),
    Metric("tailrace_store_bytes_total", "counter", "Bytes to and from Redis.", ("worker", "direction")),
    Metric("tailrace_store_breaker_open", "gauge", "Workers whose breaker leaves the store alone.", ("pipeline",)),
    Metric("tailrace_store_breaker_openings_total", "counter", "Times a breaker has opened.", ("pipeline",)),
    Metric("tailrace_cache_hits_total", "counter", "View rows that the cache held.", ("pipeline",)),
    Metric("tailrace_cache_misses_total", "counter", "View rows that had to be waited for.", ("pipeline",)),
    Metric("tailrace_cache_bytes", "gauge", "Memory that cached rows take, all workers.", ("pipeline",)),
    Metric("tailrace_requests_total", "counter", "Calls answered, by status code.", ("pipeline", "code", "release")),
    Metric("tailrace_rows_total", "counter", "Rows scored.", ("pipeline",)),
    Metric(
        "tailrace_coalesced_total", "counter", "Calls answered by another call's computation.", ("pipeline", "answer")
    ),
    Metric("tailrace_coalesced_bytes", "gauge", "Memory that kept answers take, all workers.", ("pipeline",)),
    Metric("tailrace_degraded_total", "counter", "Rows answered degraded, by reason.", ("pipeline", "reason")),
    Metric(
        "tailrace_late_checks_total", "counter", "Checks of requests after their answers, by what was found.",
        ("pipeline", "check", "outcome"),
    ),
    Metric("tailrace_shed_total", "counter", "Calls refused for lack of time or room.", ("pipeline", "reason")),
    Metric("tailrace_errors_total", "counter", "Calls that failed, by kind of error.", ("pipeline", "reason")),
    Metric("tailrace_rate_limited_total", "counter", "Calls refused beyond a limit.", ("pipeline", "reason")),
    Metric(
        "tailrace_feature_values_total", "counter", "View rows served, by where they came from.",
        ("pipeline", "view", "provenance"),
    ),
    Metric(
        "tailrace_branch_rows_total", "counter", "Rows that went one of a stage's ways.",
        ("pipeline", "stage", "branch"),
    ),
    Metric(
        "tailrace_events_total", "counter", "Events of a stream, by what became of them.", ("stream", "fate"),
        owner="ingester",
    ),
    Metric(
        "tailrace_event_lag", "gauge", "Events of a stream that its broker has, and that are yet to be counted.",
        ("stream",), owner="consumer",
    ),
    Metric("tailrace_consumers", "gauge", "Consumers that follow a stream now.", ("stream",), owner="consumer"),
    Metric(
        "tailrace_refreshes_total", "counter", "Refreshes of a batch view, by what became of them.",
        ("pipeline", "view", "outcome"), owner="refresher",
    ),
    Metric(
        "tailrace_view_refreshed_timestamp_seconds", "gauge", "When a batch view was last whole, since the epoch.",
        ("pipeline", "view"), owner="refresher",
    ),
    Metric("tailrace_accepted_total", "counter", "Requests accepted, to be answered elsewhere.", ("pipeline",)),
    Metric(
        "tailrace_accepted_waiting", "gauge", "Accepted requests on disk, by what they wait for.", ("stage",),
        owner="courier",
    ),
    Metric("tailrace_accepted_oldest_seconds", "gauge", "Age of the oldest of them.", unit="ns", owner="courier"),
    Metric(
        "tailrace_deliveries_total", "counter", "Tries to deliver a result, by what became of them.",
        ("pipeline", "outcome"), owner="courier",
    ),
    Metric(
        "tailrace_predictions_logged_total", "counter", "Requests that are in the prediction log.", ("pipeline",),
        owner="observer",
    ),
    Metric(
        "tailrace_predictions_lost_total", "counter", "Requests that did not come into the prediction log.",
        ("reason",), owner="observer",
    ),
    Metric(
        "tailrace_log_sent_total", "counter", "Lines of the prediction log that a sink has.", ("sink",),
        owner="forwarder",
    ),
    Metric(
        "tailrace_log_unsent_total", "counter", "Lines that went from the disk before a sink had them.", ("sink",),
        owner="forwarder",
    ),
    Metric(
        "tailrace_log_waiting_bytes", "gauge", "Of the log, what a sink does not have yet.", ("sink",),
        owner="forwarder",
    ),
    Metric(
        "tailrace_log_waiting_seconds", "gauge", "Since a sink had all there was.", ("sink",), "ns", "forwarder",
    ),
    Metric(
        "tailrace_drift_alarms", "gauge", "Series with an alarm of drift, in the last windows or over whole seasons.",
        ("pipeline", "kind"), owner="observer",
    ),
    Metric(
        "tailrace_drift_deviating", "gauge", "Series beyond two standard deviations of window means.",
        ("pipeline", "kind"), owner="observer",
    ),
    Metric(
        "tailrace_drift_severity", "gauge", "How far the series drift that do so most; above 1 it matters.",
        ("pipeline", "kind", "series"), owner="supervisor",
    ),
    Metric(
        "tailrace_feature_age_seconds", "gauge", "Age of the rows served last, the median.", ("pipeline", "view"),
        owner="supervisor",
    ),
    Metric(
        "tailrace_feature_age_max_seconds", "gauge", "Age of the oldest of them.", ("pipeline", "view"),
        owner="supervisor",
    ),
    Metric(
        "tailrace_spans_total", "counter", "Spans of traced requests, by what became of them.", ("outcome",),
        owner="observer",
    ),
    Metric(
        "tailrace_outcome_rows", "gauge", "Predictions of the log whose outcome is known.", ("pipeline",),
        owner="supervisor",
    ),
    Metric(
        "tailrace_outcome_precision", "gauge", "Of those with a decision, the share that came true.",
        ("pipeline", "decision"), owner="supervisor",
    ),
    Metric(
        "tailrace_outcome_recall", "gauge", "Of those that came true, the share with a decision.",
        ("pipeline", "decision"), owner="supervisor",
    ),
    Metric("tailrace_outcome_auc", "gauge", "Their area under the ROC curve.", ("pipeline",), owner="supervisor"),
    Metric(
        "tailrace_outcome_calibration_error", "gauge", "How far their scores are from what came true, in the mean.",
        ("pipeline",), owner="supervisor",
    ),
    Metric("tailrace_outcome_brier", "gauge", "Their Brier score.", ("pipeline",), owner="supervisor"),
    Metric("tailrace_limit_lease_failures_total", "counter", "Times that Redis lent no tokens.", ("worker",)),
    Metric("tailrace_in_flight", "gauge", "Most calls in flight at once, last second.", ("worker",)),
    Metric("tailrace_connections", "gauge", "Open connections.", ("worker",)),
    Metric("tailrace_gc_pauses_total", "counter", "Collections of garbage.", ("worker",)),
    Metric("tailrace_gc_pause_seconds_total", "counter", "Time that they took.", ("worker",), "ns"),
    Metric("tailrace_ready", "gauge", "1 while the worker is ready, as /readyz says.", ("worker",)),
    Metric("tailrace_worker_restarts_total", "counter", "Workers replaced.", ("worker",), owner="supervisor"),
    Metric("tailrace_worker_rss_bytes", "gauge", "Resident memory of a worker.", ("worker",), owner="supervisor"),
    Metric(
        "tailrace_process_cpu_seconds_total", "counter", "Time that a process was at work on a core.", ("process",),
        owner="supervisor",
    ),
    Metric(
        "tailrace_process_rss_bytes", "gauge", "Resident memory of a process.", ("process",), owner="supervisor"
    ),
    Metric("tailrace_gpu_busy_ratio", "gauge", "Share of the time a GPU is at work.", ("gpu",), owner="supervisor"),
    Metric("tailrace_gpu_memory_bytes", "gauge", "Memory of a GPU.", ("gpu",), owner="supervisor"),
    Metric("tailrace_gpu_memory_used_bytes", "gauge", "What of it is taken.", ("gpu",), owner="supervisor"),
    Metric(
        "tailrace_alert_firing", "gauge", "1 while an alert fires.", ("pipeline", "alert", "severity"),
        owner="supervisor",
    ),
    Metric(
        "tailrace_alert_notifications_total", "counter", "Alerts told, by whom and what became of it.",
        ("sink", "outcome"), owner="supervisor",
    ),
    Metric(
        "tailrace_release_info", "gauge", "1; the labels tell which release workers serve.",
        ("release", "pipeline", "model", "version", "backend"), owner="supervisor",
    ),
    Metric("tailrace_build_info", "gauge", "1; the labels tell what runs.", ("version", "python"), owner="supervisor"),
)  # fmt: skip

METRICS: Final = {metric.name: metric for metric in _TABLE}
"""Every metric by its name, in the order of the export."""

RETRIEVAL_METRICS: Final = (
    "tailrace_store_breaker_open", "tailrace_store_breaker_openings_total",
    "tailrace_cache_hits_total", "tailrace_cache_misses_total", "tailrace_cache_bytes",
)  # fmt: skip
"""What a network store's retrieval says of its breaker and its cache, a pipeline."""

SHED_REASONS: Final = ("deadline", "queue_full", "expired", "priority")
"""Why a call is shed: it cannot be answered in time; the inbox is full; its time ran out in the queue; of a low
priority it could be, and leaves the rest of the queue to others."""
LIMIT_REASONS: Final = ("key_rate", "key_concurrent", "pipeline_rate", "pipeline_concurrent")
"""Which limit a call was beyond: of its key or of its pipeline, and of what: requests over time, or calls in flight."""

BATCH_REASONS: Final = tuple(reason.name.lower() for reason in Reason)
"""Why a heavy model's batch began: it was idle; an instance became free; it had waited for more rows."""
REMOTE_FAULTS: Final = tuple(map(str, RemoteFault))
"""Why a call of a remote model gave no score."""
DEGRADED_REASONS: Final = {flag: (flag.name or "").lower() for flag in Degraded}
ACCEPTED_STAGES: Final = ("scoring", "delivery", "nothing")
"""What an accepted request waits for: to be scored; to be delivered; nothing any more, it is set aside."""
DELIVERY_OUTCOMES: Final = ("delivered", "retried", "set_aside")
"""What becomes of a try to deliver a result."""
REFRESH_OUTCOMES: Final = ("done", "failed", "held")
"""What becomes of a refresh; held: another run writes the view."""
LATE_OUTCOMES: Final = ("held", "broken", "failed", "dropped")
"""What a late check finds; failed: it raised, dropped: it was not made in time."""
DRIFT_KINDS: Final = ("feature", "score", "confidence", "decision", "view")
"""What is watched for drift; of a view the share of rows that are answered with its defaults."""
LOST_REASONS: Final = ("overwritten", "unreadable", "unwritten")
"""Why a request is not logged: the observer came too late; its frame is none; the disk does not keep up."""
SPAN_OUTCOMES: Final = ("exported", "rejected", "failed", "dropped", "limited")
"""What becomes of a span: taken; refused by who else took what was sent with it; given up after its tries, or where
the endpoint refuses all; dropped, since too many waited; not made, since so many calls a second are traced at most, one
a call."""
FATES: Final = tuple(fate.name.lower() for fate in Fate)
CONSUMER_FATES: Final = (*FATES, "poison")
"""What becomes of an event that a consumer brings; poison: it cannot be read, for which HTTP has a 422."""
COALESCED_ANSWERS: Final = ("in_flight", "kept")
"""How a call comes to another's answer: it was under way, or is kept for a while."""
PROVENANCES: Final = tuple(provenance.name.lower() for provenance in Provenance)


def slug(kind: type[ServingError]) -> str:
    """Return the label of a kind of error, the same as in its problem type: "malformed-body"."""
    return kind.title.lower().replace(" ", "-")


def error_kinds() -> list[type[ServingError]]:
    """Return every kind of error that answers a call and is part of Tailrace, in a fixed order."""
    return list(_family(ServingError))


def _family(kind: type[ServingError]) -> Iterator[type[ServingError]]:
    """Give a class and its descendants among Tailrace's own errors, depth first."""
    yield kind
    for child in kind.__subclasses__():
        if child.__module__ == "tailrace.errors":
            yield from _family(child)
