"""The recorders: every call is counted once, in the right place."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.batch import Batch, Call, Degraded
from tailrace.deadline import LAYERS, Budget
from tailrace.errors import (
    InferenceError,
    InvalidRequestError,
    MalformedBodyError,
    ServerError,
    ShedError,
    UnavailableError,
)
from tailrace.features.view_rows import ViewRows
from tailrace.monitor.histogram import Histogram
from tailrace.monitor.layout import PipelineShape, worker_layout
from tailrace.monitor.merged import MergedMetrics
from tailrace.monitor.merging import merge_blocks
from tailrace.monitor.metrics import METRICS, error_kinds, slug
from tailrace.monitor.recorder import BatchRecorder, WorkerRecorder
from tailrace.monitor.shared import MetricBlock
from tailrace.monitor.snapshot import PipelineSnapshot, pipeline_snapshots
from tailrace.refusals import RefusalRecorder

BUDGET = Budget("50ms", request="2ms", features="15ms", inference="20ms", postprocess="3ms", response="2ms")
LAYOUT = worker_layout([PipelineShape("fraud", BUDGET, ("Profile", "Terminal")), PipelineShape("other", BUDGET)])
MARKS_NS = [1_000_000, 1_100_000, 1_300_000, 1_600_000, 1_650_000, 1_700_000]
WRITTEN_NS = 1_720_000


@pytest.fixture
def block() -> MetricBlock:
    """An empty block."""
    return MetricBlock.create(LAYOUT)


def merged(block: MetricBlock) -> MergedMetrics:
    """Return what the block holds."""
    return merge_blocks([block])


def fraud(block: MetricBlock) -> PipelineSnapshot:
    """Return the figures of the pipeline `fraud`; checks that nothing was counted for the other one."""
    first, second = pipeline_snapshots(merged(block))
    assert second.requests == second.whole.count == second.rows == 0
    return first


@given(st.lists(st.integers(0, 1_000_000), min_size=1, max_size=100))
def test_record_counts_call_times_like_observing_each(arrivals_ns: list[int]) -> None:
    """Few calls and many are counted on two paths with one result: that of the plain histogram."""
    block = MetricBlock.create(LAYOUT)
    BatchRecorder(block, "fraud").count_batch(MARKS_NS, WRITTEN_NS, arrivals_ns, len(arrivals_ns))
    metrics = merged(block)
    for name, end_ns in (("tailrace_request_seconds", WRITTEN_NS), ("tailrace_queue_wait_seconds", MARKS_NS[0])):
        found = metrics.series[name, ("fraud",)].histogram()
        expected = Histogram(found.edges)
        for arrival_ns in arrivals_ns:
            expected.observe(end_ns - arrival_ns)
        assert found.cells == expected.cells


def test_record_weighs_layers_by_calls(block: MetricBlock) -> None:
    """Each call of a batch has spent the batch's time in each layer."""
    BatchRecorder(block, "fraud").count_batch(MARKS_NS, WRITTEN_NS, [900_000] * 20, 60)
    snapshot = fraud(block)
    assert [snapshot.layers[layer].count for layer in LAYERS] == [20] * 5
    assert [snapshot.layers[layer].mean_ns for layer in LAYERS] == [100_000, 200_000, 300_000, 50_000, 50_000]
    assert [snapshot.layers[layer].budget_ns for layer in LAYERS] == list(BUDGET.layers_ns)
    assert (snapshot.rows, snapshot.rows_per_batch) == (60, 60.0)


def test_record_counts_failed_calls_apart(block: MetricBlock) -> None:
    """Answered, failed and shed calls add up to all of them."""
    recorder = BatchRecorder(block, "fraud")
    recorder.count_batch(MARKS_NS, WRITTEN_NS, [900_000] * 10, 10, failed=2)
    recorder.record_failure(InvalidRequestError, 2)
    recorder.record_failure(MalformedBodyError)
    recorder.record_shed("deadline", 3)
    snapshot = fraud(block)
    assert snapshot.codes == {"200": 8, "422": 2, "400": 1, "503": 3}
    assert snapshot.errors == {"invalid-request": 2, "malformed-body": 1}
    assert snapshot.shed == {"deadline": 3}
    assert snapshot.requests == 14


def test_record_counts_degraded_rows_by_reason(block: MetricBlock) -> None:
    """A row with two reasons counts under both."""
    both = Degraded.STORE_TIMEOUT | Degraded.MODEL_ERROR
    degraded = np.array([0, Degraded.STORE_TIMEOUT, both], dtype=np.uint8)
    BatchRecorder(block, "fraud").count_batch(MARKS_NS, WRITTEN_NS, [0], 3, degraded)
    assert fraud(block).degraded == {"store_timeout": 2, "model_error": 1}


def test_fetches_count_by_their_time_and_lateness(block: MetricBlock) -> None:
    """A batch's fetch is one value, with an edge at the features' part of the budget; a late one is counted too."""
    recorder = BatchRecorder(block, "fraud")
    for took_ms, is_late in ((1, False), (15, False), (16, True), (40, True)):
        recorder.count_fetch(took_ms * 1_000_000, is_late)
    metrics = merged(block)
    times = metrics.histogram("tailrace_store_seconds", "fraud")
    assert (times.count, times.cells[-1]) == (4, 72_000_000)
    assert sum(times.cells[: times.edges.index(BUDGET.features_ns) + 1]) == 2
    assert metrics.value("tailrace_store_late_total", "fraud") == 2
    assert metrics.histogram("tailrace_store_seconds", "other").count == 0


def test_provenances_count_by_view(block: MetricBlock) -> None:
    """Rows of each view count under where they came from."""
    fresh = ViewRows(np.zeros(5), {})
    mixed = ViewRows(np.zeros(4), {}, np.array([0, 2, 2, 3], dtype=np.uint8))
    batch = Batch([], 0, 0, marks_ns=MARKS_NS, view_rows=[fresh, mixed])
    BatchRecorder(block, "fraud").record(batch, WRITTEN_NS)
    assert fraud(block).features == {"Profile": {"fresh": 5}, "Terminal": {"fresh": 1, "default": 2, "timeout": 1}}


def test_batch_counts_its_calls_errors_and_degraded_rows(block: MetricBlock) -> None:
    """Failed calls are errors and not 200; a row that is not answered at all is not counted as degraded."""
    calls = [Call(None, None, None, 900_000, 0, 1) for _ in range(3)]
    degraded = np.array([Degraded.MODEL_ERROR, Degraded.STORE_ERROR, 0], dtype=np.uint8)
    failed = np.array([True, False, False])
    error = InferenceError("no score")
    batch = Batch(calls, 0, 0, marks_ns=MARKS_NS, rows=3, degraded=degraded, failed=failed, errors={0: error})
    recorder = BatchRecorder(block, "fraud")
    recorder.record(batch, WRITTEN_NS)
    snapshot = fraud(block)
    assert snapshot.codes == {"200": 2, "500": 1}
    assert snapshot.errors == {"inference-failed": 1}
    assert snapshot.degraded == {"store_error": 1}
    assert (snapshot.whole.count, snapshot.rows, snapshot.layers["inference"].mean_ns) == (3, 3, 300_000)
    assert (recorder.take_calls_most(), recorder.take_calls_most()) == (3, 0)


def test_batch_that_a_layer_raised_in_counts_its_failures_alone(block: MetricBlock) -> None:
    """It has not passed every layer, so that it has no time in any."""
    error = ServerError("ValueError while answering this request")
    batch = Batch([Call(None, None, None, 0, 0, 1)] * 2, 0, 0, marks_ns=MARKS_NS[:3], errors={0: error, 1: error})
    BatchRecorder(block, "fraud").record(batch, WRITTEN_NS)
    assert fraud(block).codes == {"500": 2}
    assert fraud(block).whole.count == 0


def test_failure_of_a_kind_of_the_user_counts_as_the_nearest(block: MetricBlock) -> None:
    """A subclass that the table does not know counts as what it is derived from."""

    class TooRichError(InvalidRequestError):
        title = "Too rich"

    BatchRecorder(block, "fraud").record_failure(TooRichError, 2)
    assert fraud(block).errors == {"invalid-request": 2}


def test_times_before_arrival_do_not_break_the_count(block: MetricBlock) -> None:
    """An arrival later than the batch's start counts as no wait."""
    BatchRecorder(block, "fraud").count_batch(MARKS_NS, WRITTEN_NS, [1_200_000] * 30, 30)
    assert (fraud(block).wait.count, fraud(block).wait.mean_ns) == (30, 0)


def test_unknown_shed_reason_is_an_error(block: MetricBlock) -> None:
    """A reason outside the table is a mistake in the program."""
    with pytest.raises(KeyError):
        BatchRecorder(block, "fraud").record_shed("tired")


def test_worker_recorder_holds_gauges(block: MetricBlock) -> None:
    """Gauges hold their last value; a new writer begins at 0."""
    recorder = WorkerRecorder(block)
    recorder.set_connections(7)
    recorder.set_in_flight(3)
    recorder.set_in_flight(2)
    recorder.set_ready(True)
    recorder.record_failure(UnavailableError)
    metrics = merged(block)
    assert metrics.value("tailrace_connections", "0") == 7
    assert metrics.value("tailrace_in_flight", "0") == 2
    assert metrics.value("tailrace_ready", "0") == 1
    assert metrics.value("tailrace_errors_total", "", "unavailable") == 1
    block.reset_gauges()
    assert merged(block).value("tailrace_connections", "0") == 0


def test_every_kind_of_error_has_a_place() -> None:
    """Each error that answers a call is found in the layout by its code and its slug."""
    kinds = error_kinds()
    assert ShedError in kinds
    for kind in kinds:
        assert LAYOUT.find("tailrace_requests_total", "fraud", str(kind.status), "").length == 1
        assert LAYOUT.find("tailrace_errors_total", "fraud", slug(kind)).length == 1


def test_pipelines_counters_hear_of_refusals(block: MetricBlock) -> None:
    """An engine tells them of calls that come into no batch too."""
    assert isinstance(BatchRecorder(block, "fraud"), RefusalRecorder)


KEPT_IN_SECONDS = {
    "tailrace_view_refreshed_timestamp_seconds", "tailrace_process_cpu_seconds_total",
    "tailrace_feature_age_seconds", "tailrace_feature_age_max_seconds",
}  # fmt: skip


def test_metric_names_follow_their_kind() -> None:
    """Names carry the prefix; counters end in _total, times in _seconds."""
    for name, metric in METRICS.items():
        assert name.startswith("tailrace_")
        assert name.endswith("_total") == (metric.kind == "counter")
        assert name.removesuffix("_total").endswith("_seconds") == (metric.unit == "ns" or name in KEPT_IN_SECONDS)
