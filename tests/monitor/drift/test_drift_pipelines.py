"""What a pipeline's predictions are to drift: rows, and the requests that they are of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from monitor.drift.predicted import ROWS, predictions
from tailrace.deadline import NS_PER_S
from tailrace.inference.drift import Drift
from tailrace.monitor.drift.pipelines import PipelineDrift
from tailrace.pipeline import Pipeline


def test_items_of_three_requests_are_three_customers(pipeline_of: Callable[[str], Pipeline]) -> None:
    """Two hundred items are ranked for each: what is the customer's is told by three values, which is no drift."""
    log = replace(pipeline_of("log"), drift=Drift("1s", season=None))
    drift, rng = PipelineDrift([log]), np.random.default_rng(2)
    row_request = np.repeat(np.arange(3), ROWS // 3)
    for second in range(1, 15):
        values = rng.uniform(0.5, 2, 3)[row_request]
        asked = predictions(log, "1", features={"amount": values}, scores=np.log(values), row_request=row_request)
        for findings in drift.take(asked, int(1.1 * second * NS_PER_S), float(second)):
            assert not any(each.signals for each in findings.findings), second
