"""Predictions that drift is told of, of a pipeline with one feature and one view."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from tailrace.batch import Provenance
from tailrace.monitor.predictions import Predictions
from tailrace.pipeline import Pipeline

ROWS = 600


def predictions(pipeline: Pipeline, release: str, shift: float = 0.0, rows: int = ROWS, **changed: Any) -> Predictions:
    """Return predictions of a pipeline of one feature, some members replaced."""
    values = np.random.default_rng(3).uniform(0.5 + shift, 2 + shift, rows)
    zeros = np.zeros(rows, np.int64)
    found = Predictions(
        pipeline=pipeline.name, release=release, slot=0, requests=[b"{}"] * rows, request_ids=[""] * rows,
        traces=[""] * rows, clients=[""] * rows, errors=[""] * rows, answered_ns=zeros, waits_ns=zeros, whole_ns=zeros,
        layers_ns=np.zeros((rows, 5), np.int64), row_request=None, features={"amount": values},
        provenance={"Profiles": np.full(rows, Provenance.FRESH, np.uint8)}, event_ns={}, scores=np.log(values),
        decisions=None, labels=(), reasons=None, degraded=np.zeros(rows, np.uint8), failed=np.zeros(rows, np.bool_),
    )  # fmt: skip
    return replace(found, **changed)
