"""What a worker tells of itself: faults in the log, once as they begin and once when they are over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from structlog.testing import capture_logs

from tailrace.compiler import compile_plan
from tailrace.errors import StoreError
from tailrace.features.stores.memory import MemoryStore
from tailrace.monitor.layout import worker_layout
from tailrace.monitor.recorder import BatchRecorder
from tailrace.monitor.shared import MetricBlock
from tailrace.pipeline import load_pipelines
from tailrace.server.logging import logger
from tailrace.server.worker import QUIET_S, FaultLog, shape_of
from tailrace.types import Degraded

MARKS_NS = [0, 1, 2, 3, 4, 5]


def test_fault_is_told_as_it_begins_and_when_it_is_over(pipelines_dir: Path) -> None:
    """Degraded answers give one line for each reason however many they are, and one after ten seconds without any."""
    (pipeline,) = load_pipelines(pipelines_dir / "faulted.py")
    plan = compile_plan(pipeline, MemoryStore())
    recorder = BatchRecorder(MetricBlock.create(worker_layout([shape_of(pipeline)])), pipeline.name)

    def degrade(reason: Degraded) -> None:
        recorder.record(MARKS_NS, MARKS_NS[-1], [0, 0], 2, np.array([0, reason], np.uint8))

    told: list[Any]
    with capture_logs() as told:
        degrade(Degraded.STORE_ERROR)  # by the worker before
        faults = FaultLog(plan, recorder, logger())
        faults.look()
        assert not told
        plan.retrieval.failure = StoreError("cannot be read")
        for _ in range(3):
            degrade(Degraded.STORE_ERROR)
            faults.look()
        degrade(Degraded.STALE_FEATURES)
        for _ in range(QUIET_S + 3):
            faults.look()
    assert [(line["event"], line["reason"], line["pipeline"]) for line in told] == [
        ("answers degraded", "store_error", "faulted"),
        ("answers degraded", "stale_features", "faulted"),
        ("answers no longer degraded", "store_error", "faulted"),
        ("answers no longer degraded", "stale_features", "faulted"),
    ]
    assert (told[0]["error"], told[1]["error"]) == ("cannot be read", None)


def test_store_that_failed_at_warm_up_is_told(pipelines_dir: Path) -> None:
    """A server starts without its Redis, and says so."""
    (pipeline,) = load_pipelines(pipelines_dir / "faulted.py")
    plan = compile_plan(pipeline, MemoryStore())
    plan.retrieval.failure = ConnectionError("refused")
    recorder = BatchRecorder(MetricBlock.create(worker_layout([shape_of(pipeline)])), pipeline.name)
    with capture_logs() as told:
        FaultLog(plan, recorder, logger())
    assert [(line["event"], line["error"]) for line in told] == [("store does not answer", "refused")]
