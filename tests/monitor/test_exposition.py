"""The /metrics page, read back by Prometheus' own parser."""

from __future__ import annotations

import subprocess
from itertools import pairwise

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_families
from prometheus_client.parser import text_string_to_metric_families

from programs import find_program
from tailrace.deadline import Budget
from tailrace.errors import MalformedBodyError
from tailrace.monitor.exemplars import Exemplar
from tailrace.monitor.exposition import expose
from tailrace.monitor.layout import (
    PipelineShape,
    consumer_layout,
    courier_layout,
    forwarder_layout,
    ingester_layout,
    observer_layout,
    refresher_layout,
    worker_layout,
)
from tailrace.monitor.merged import Key
from tailrace.monitor.merging import merge_blocks
from tailrace.monitor.metrics import METRICS
from tailrace.monitor.recorder import BatchRecorder, WorkerRecorder
from tailrace.monitor.shared import MetricBlock

BUDGET = Budget("50ms", features="15ms", inference="20ms")


@pytest.fixture
def families() -> dict[str, Metric]:
    """The families of a page over two workers' blocks."""
    blocks = []
    for slot in (0, 1):
        block = MetricBlock.create(worker_layout([PipelineShape('fra"ud', BUDGET, ("Profile",))], slot))
        recorder = BatchRecorder(block, 'fra"ud')
        recorder.count_batch([0, 10, 15_000_010, 35_000_011, 35_000_020, 50_000_000], 50_000_000, [0, 0], 64)
        recorder.count_batch([0, 10, 20, 30, 40, 50_000_001], 50_000_001, [0], 1)
        recorder.record_failure(MalformedBodyError)
        WorkerRecorder(block, slot).set_connections(5)
        blocks.append(block)
    supervisor = {
        ("tailrace_build_info", ("0.1.0", "3.11")): 1.0,
        ("tailrace_worker_restarts_total", ("0",)): 2.0,
        ("tailrace_worker_rss_bytes", ("0",)): 1e8,
    }
    page = expose(merge_blocks(blocks), supervisor).decode()
    return {family.name: family for family in text_string_to_metric_families(page)}


def value(families: dict[str, Metric], sample_name: str, **labels: str) -> float:
    """Return the one sample of this name and these labels."""
    found = [s.value for f in families.values() for s in f.samples if s.name == sample_name and s.labels == labels]
    assert len(found) == 1, f"{sample_name}{labels}: {found}"
    return found[0]


def test_page_has_every_metric_of_the_table_with_its_labels(families: dict[str, Metric]) -> None:
    """What stands in the table is exported, with its type and labels, and nothing else."""
    assert set(families) == {name.removesuffix("_total") for name in METRICS}
    for name, metric in METRICS.items():
        family = families[name.removesuffix("_total")]
        assert (family.type, family.documentation) == (metric.kind, metric.help)
        assert all(set(sample.labels) - {"le"} == set(metric.labels) for sample in family.samples)


def test_page_counts_exactly_up_to_the_budget(families: dict[str, Metric]) -> None:
    """The bucket at the budget holds the calls that took just the budget, not those that took 1 ns more."""
    assert value(families, "tailrace_request_seconds_bucket", pipeline='fra"ud', le="0.05") == 4
    assert value(families, "tailrace_request_seconds_bucket", pipeline='fra"ud', le="+Inf") == 6
    bucket = "tailrace_layer_seconds_bucket"
    assert value(families, bucket, pipeline='fra"ud', layer="features", le="0.015") == 6
    assert value(families, bucket, pipeline='fra"ud', layer="inference", le="0.02") == 2


def test_page_counts_exactly_up_to_the_total_where_there_is_no_part() -> None:
    """A layer without a part of its own, and the wait, are counted exactly up to the whole budget."""
    block = MetricBlock.create(worker_layout([PipelineShape("fraud", Budget("50ms"))]))
    recorder = BatchRecorder(block, "fraud")
    for spent_ns in (50_000_000, 50_000_001):
        recorder.count_batch([*[spent_ns] * 5, 2 * spent_ns], 2 * spent_ns, [0], 1)
    page = expose(merge_blocks([block]), {}).decode()
    families = {family.name: family for family in text_string_to_metric_families(page)}
    bucket = "tailrace_layer_seconds_bucket"
    assert value(families, bucket, pipeline="fraud", layer="response", le="0.05") == 1
    assert value(families, bucket, pipeline="fraud", layer="response", le="+Inf") == 2
    assert value(families, "tailrace_queue_wait_seconds_bucket", pipeline="fraud", le="0.05") == 1


def test_page_buckets_are_cumulative(families: dict[str, Metric]) -> None:
    """Buckets never fall, and the last one is the count."""
    buckets = [s for s in families["tailrace_request_seconds"].samples if s.name.endswith("_bucket")]
    assert len(buckets) < 60
    assert all(low.value <= high.value for low, high in pairwise(buckets))
    assert all(float(low.labels["le"]) < float(high.labels["le"]) for low, high in pairwise(buckets))
    assert value(families, "tailrace_request_seconds_count", pipeline='fra"ud') == buckets[-1].value


def test_page_tells_times_in_seconds_and_rows_as_rows(families: dict[str, Metric]) -> None:
    """Sums are in the unit of the name."""
    assert value(families, "tailrace_request_seconds_sum", pipeline='fra"ud') == pytest.approx(0.3, rel=1e-6)
    assert value(families, "tailrace_batch_rows_sum", pipeline='fra"ud') == 130
    assert value(families, "tailrace_batch_rows_bucket", pipeline='fra"ud', le="64.0") == 4


def test_page_sums_counters_and_shows_each_workers_gauges(families: dict[str, Metric]) -> None:
    """Counters are merged; gauges stand by worker; the supervisor's own values are there."""
    assert value(families, "tailrace_requests_total", pipeline='fra"ud', code="200", release="") == 6
    assert value(families, "tailrace_errors_total", pipeline='fra"ud', reason="malformed-body") == 2
    assert value(families, "tailrace_connections", worker="1") == 5
    assert value(families, "tailrace_worker_restarts_total", worker="0") == 2


WHOLE_SHAPE = PipelineShape(
    "fraud", BUDGET, ("Profile", "Item"), branches=(("route", ("a", "b")),), remote=("far",), models=("near",),
    coalesces=True, late_checks=("named",), accepts=True, hops=(0, 1),
)  # fmt: skip
LAYOUTS = [
    worker_layout([WHOLE_SHAPE], 0, "r1"), ingester_layout(["payments"]), consumer_layout("payments"),
    refresher_layout([("fraud", "Profile")]), courier_layout(["fraud"]), observer_layout(["fraud"]),
    forwarder_layout("redis://127.0.0.1:6379/0?stream=log"),
]  # fmt: skip


def read_open(page: bytes) -> list[Metric]:
    """Return the families of a page in OpenMetrics' form."""
    return list(open_families(page.decode()))  # type: ignore[no-untyped-call]


def whole_page(*, is_open: bool, exemplars: dict[str, tuple[Exemplar, ...]]) -> bytes:
    """Return a page with a value of every metric."""
    blocks = [MetricBlock.create(layout) for layout in LAYOUTS]
    BatchRecorder(blocks[0], "fraud").count_batch([0] * 6, 2_000_000, [0] * 3, 3)
    own: dict[Key, float] = {
        (metric.name, ("x",) * len(metric.labels)): 1.0 for metric in METRICS.values() if metric.owner == "supervisor"
    }
    return expose(merge_blocks(blocks), own, exemplars, is_open=is_open)


def test_every_metric_of_the_table_is_counted_by_somebody() -> None:
    """What no layout has, and no supervisor, would be told of in the reference alone."""
    counted = {series.name for layout in LAYOUTS for series in layout.series} | {"tailrace_inference_seconds"}
    assert counted == {metric.name for metric in METRICS.values() if metric.owner != "supervisor"}


def test_open_page_has_every_metric_too() -> None:
    """Prometheus' own parser of OpenMetrics reads it, and finds what the plain page has."""
    families = read_open(whole_page(is_open=True, exemplars={}))
    assert {family.name for family in families} == {name.removesuffix("_total") for name in METRICS}


def test_promtool_finds_no_fault() -> None:
    """`promtool check metrics` takes the plain page, with a value of every metric, and finds nothing to say."""
    page = whole_page(is_open=False, exemplars={"fraud": (Exemplar("ab" * 16, 2_000_000, 1_795_000_000.5),)})
    command = [find_program("promtool", "prometheus"), "check", "metrics"]
    done = subprocess.run(command, input=page, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert b"trace_id" not in page


def test_open_page_names_a_trace_of_each_bucket() -> None:
    """The last trace of a bucket stands beside it, within its bounds; one of another pipeline does not."""
    exemplars = {
        "fraud": (
            Exemplar("aa" * 16, 1_900_000, 1_795_000_001.5),
            Exemplar("bb" * 16, 1_950_000, 1_795_000_002.5),
            Exemplar("cc" * 16, 40_000_000_000, 1_795_000_003.5),
        ),
        "other": (Exemplar("dd" * 16, 2_000_000, 1_795_000_001.5),),
    }
    page = whole_page(is_open=True, exemplars=exemplars)
    samples = [sample for family in read_open(page) for sample in family.samples]
    found = {sample.exemplar.labels["trace_id"]: sample for sample in samples if sample.exemplar}
    assert {sample.name for sample in found.values()} == {"tailrace_request_seconds_bucket"}
    assert {trace: sample.labels["pipeline"] for trace, sample in found.items()} == {
        "bb" * 16: "fraud", "cc" * 16: "fraud",
    }  # fmt: skip
    assert 0.00195 <= float(found["bb" * 16].labels["le"]) <= 0.0041
    assert found["cc" * 16].labels["le"] == "+Inf"
    assert page.endswith(b"# EOF\n")


def test_kinds_of_errors_that_users_make_up_add_no_series() -> None:
    """Each is counted as the nearest one that is known."""
    layout = worker_layout([WHOLE_SHAPE], 0, "r1")
    block = MetricBlock.create(layout)
    recorder = BatchRecorder(block, "fraud")
    for number in range(1_500):
        recorder.record_failure(type(f"Fault{number}", (MalformedBodyError,), {}))
    merged = merge_blocks([block])
    assert len(merged.series) == len(layout.series) + 1  # the inference by release
    assert merged.value("tailrace_errors_total", "fraud", "malformed-body") == 1_500
