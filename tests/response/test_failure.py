"""A call without a score is told why: the model's fault, or a number of its own that no model can hold."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from tailrace.batch import Batch, Call, Degraded
from tailrace.errors import DeadlineExceededError, InferenceError, InvalidRequestError
from tailrace.request.schema import Request
from tailrace.response.failure import failure_of_call


class Amount(Request, rename={"amount": "sum"}):
    amount: float
    parts: list[float] = msgspec.field(default_factory=list)
    count: int = 0
    label: str = ""


def failed(requests: Any) -> Any:
    """Return why a call has no score."""
    rows = len(requests) if isinstance(requests, list) else 1
    batch = Batch([Call(None, None, requests, 0, 0, rows)], 0, 0)  # type: ignore[arg-type]
    batch.offsets = [0, rows]
    batch.failed = np.ones(rows, bool)
    return failure_of_call(batch, 0)


@pytest.mark.parametrize(
    ("requests", "where"),
    [
        (Amount(amount=1e39), "$.sum"),
        (Amount(amount=1.0, parts=[1.0, -1e300]), "$.parts"),
        ([Amount(amount=3.4e38), Amount(amount=-3.5e38)], "$[1].sum"),
    ],
)
def test_number_that_no_model_can_hold_is_the_callers_fault(requests: Any, where: str) -> None:
    """A 422 with its path: float32, which models compute with, ends at 3.4e38."""
    error = failed(requests)
    assert isinstance(error, InvalidRequestError)
    assert error.where == where
    assert "tr.Field" in error.next


def test_other_failures_are_the_models() -> None:
    """Also beside a number that is large and yet one: an integer of 64 bits is below."""
    assert isinstance(failed(Amount(amount=3.4e38, count=2**63 - 1, label="1e39")), InferenceError)
    batch = Batch([Call(None, None, Amount(amount=1e39), 0, 0, 1)], 0, 0)  # type: ignore[arg-type]
    batch.failed, batch.degraded = np.ones(1, bool), np.array([Degraded.MODEL_TIMEOUT], np.uint8)
    assert isinstance(failure_of_call(batch, 0), DeadlineExceededError)
