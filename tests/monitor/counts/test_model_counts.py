from __future__ import annotations

from tailrace.deadline import Budget
from tailrace.inference.batching import Formed, Reason
from tailrace.monitor.counts.model import ModelCounts
from tailrace.monitor.layout import PipelineShape, worker_layout
from tailrace.monitor.merging import merge_blocks
from tailrace.monitor.metrics import BATCH_REASONS
from tailrace.monitor.shared import MetricBlock


def test_batches_of_a_heavy_model_count_by_reason_rows_and_wait() -> None:
    """Each batch once, by why it began, how many rows it had and how long its oldest waited; none of another model."""
    block = MetricBlock.create(worker_layout([PipelineShape("fraud", Budget("50ms"), models=("first", "second"))]))
    counts = ModelCounts(block, "fraud", "first")
    for formed in (Formed(3, Reason.IDLE, 0), Formed(64, Reason.FREE, 2_000_000), Formed(64, Reason.FREE, 4_000_000)):
        counts.count(formed)
    metrics = merge_blocks([block])
    for model, counted, rows, waits_ns in (("first", (1, 2, 0), 131, 6_000_000), ("second", (0, 0, 0), 0, 0)):
        reasons = (metrics.value("tailrace_model_batches_total", "fraud", model, reason) for reason in BATCH_REASONS)
        assert tuple(reasons) == counted
        assert metrics.histogram("tailrace_model_batch_rows", "fraud", model).sum == rows
        assert metrics.histogram("tailrace_model_wait_seconds", "fraud", model).sum == waits_ns
