"""Logs of predictions, for tests of what reads them: written as by the observer, on a clock that is set by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tailrace.deadline import NS_PER_S
from tailrace.monitor.log.columns import log_table
from tailrace.monitor.log.files import LogFiles
from tailrace.monitor.predictions import Predictions

NOON_S = 1_750_075_200.0
"""2025-06-16T12:00:00Z."""
HOUR_S = 3_600

Write = Callable[..., LogFiles]


class Now:
    """A wall clock that is set by hand, and shows noon."""

    def __init__(self) -> None:
        self.s = NOON_S

    def __call__(self) -> float:
        """Return the time."""
        return self.s


@contextmanager
def writers(root: Path, now: Now) -> Iterator[Write]:
    """Give what makes a writer of a pipeline's log; at the end their files are closed as they are."""
    made = []

    def make(pipeline: str = "fraud") -> LogFiles:
        made.append(LogFiles(root / pipeline, now))
        return made[-1]

    yield make
    for files in made:
        for draft in files._drafts:
            draft.close()


def at(second: float, first: int, count: int, **changed: Any) -> pa.RecordBatch:
    """Return lines of requests that were answered so many seconds past noon, with numbers that tell them apart."""
    numbers = list(range(first, first + count))
    column = np.array(numbers, float)
    facts: dict[str, Any] = {
        "pipeline": "fraud", "release": "r1", "slot": 0,
        "requests": [json.dumps({"n": number}).encode() for number in numbers],
        "request_ids": [f"r{number}" for number in numbers],
        "traces": [""] * count, "clients": ["10.0.0.1"] * count, "errors": [""] * count,
        "answered_ns": np.full(count, ns(second)),
        "waits_ns": np.full(count, 5_000), "whole_ns": np.full(count, 9_000),
        "layers_ns": np.tile(np.arange(5) * 1_000, (count, 1)),
        "row_request": None,
        "features": {"amount": column, "Profile.kind": np.array(["a"] * count, object), "v": np.ones((count, 3))},
        "provenance": {"Profile": np.full(count, 2, np.uint8)},
        "event_ns": {"Profile": np.zeros(count, np.int64)},
        "scores": column / 10, "decisions": np.zeros(count, np.int64), "labels": ("allow", "block"),
        "reasons": None, "degraded": np.full(count, 3, np.uint8), "failed": np.zeros(count, np.bool_),
    }  # fmt: skip
    return log_table(Predictions(**facts | changed))


def ns(second: float) -> int:
    """Return a time past noon."""
    return int((NOON_S + second) * NS_PER_S)


def numbered(first: int, count: int) -> list[str]:
    """Return the ids of such requests."""
    return [f"r{number}" for number in range(first, first + count)]
