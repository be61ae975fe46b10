"""How old the rows were that requests were served from."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tailrace.deadline import NS_PER_S
from tailrace.monitor.ages import QUIET_S_MAX, ROWS_MAX, VIEWS_MAX, Ages
from tailrace.monitor.predictions import Predictions

NOW_NS = 1_795_000_000 * NS_PER_S


def served(
    ages_s: list[float],
    view: str = "Profile",
    row_request: NDArray[np.int64] | None = None,
    requests: int | None = None,
) -> Predictions:
    """Return requests of now, served from rows of these ages; a negative one stands for no row."""
    rows = len(ages_s)
    count = rows if requests is None else requests
    event_ns = np.array([NOW_NS - int(age_s * NS_PER_S) if age_s >= 0 else 0 for age_s in ages_s], np.int64)
    facts: dict[str, Any] = {
        "pipeline": "fraud", "release": "r1", "slot": 0, "requests": [b"{}"] * count, "request_ids": [""] * count,
        "traces": [""] * count, "clients": [""] * count, "errors": [""] * count,
        "answered_ns": np.full(count, NOW_NS, np.int64), "waits_ns": np.zeros(count, np.int64),
        "whole_ns": np.zeros(count, np.int64), "layers_ns": np.zeros((count, 5), np.int64),
        "row_request": row_request, "features": {}, "provenance": {}, "event_ns": {view: event_ns},
        "scores": np.zeros(rows), "decisions": None, "labels": (), "reasons": None,
        "degraded": np.zeros(rows, np.uint8), "failed": np.zeros(rows, np.bool_),
    }  # fmt: skip
    return Predictions(**facts)


def test_age_is_that_of_the_rows_served_last() -> None:
    """Their median, and the oldest; a row that answered with defaults has none."""
    ages = Ages()
    ages.take(served([60.0, 3_600.0, -1.0, 120.0]), now_s=1.0)
    told = ages.told(1.0)["fraud"]["Profile"]
    assert (told.median_s, told.max_s, told.rows) == (120.0, 3_600.0, 3)


def test_refreshed_view_is_young_again() -> None:
    """What was old is let go after a thousand rows more."""
    ages = Ages()
    ages.take(served([9_000.0] * 500), now_s=1.0)
    for _ in range(ROWS_MAX // 100 + 1):
        ages.take(served([5.0] * 100), now_s=2.0)
    assert ages.told(2.0)["fraud"]["Profile"].max_s == 5.0


def test_rows_of_one_request_have_its_time() -> None:
    """A request of many rows was answered once."""
    ages = Ages()
    ages.take(served([1.0, 2.0, 3.0], row_request=np.zeros(3, np.int64), requests=1), now_s=1.0)
    assert ages.told(1.0)["fraud"]["Profile"].median_s == 2.0


def test_view_that_is_not_served_is_not_told_of() -> None:
    """Nor one of which nothing was stored."""
    ages = Ages()
    ages.take(served([-1.0]), now_s=1.0)
    assert ages.told(1.0) == {}
    ages.take(served([1.0]), now_s=1.0)
    assert ages.told(1.5 + QUIET_S_MAX) == {}


def test_memory_and_views_are_bounded() -> None:
    """Millions of rows are remembered as a thousand are, and views beyond the most not at all."""
    ages = Ages()
    ages.take(served([1.0] * 100_000), now_s=1.0)
    tracemalloc.start()
    for _ in range(200):
        ages.take(served([1.0] * 999), now_s=1.0)
    grown = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert grown < 30_000
    assert ages.told(1.0)["fraud"]["Profile"].rows < 2 * ROWS_MAX
    for number in range(VIEWS_MAX + 5):
        ages.take(served([1.0], view=f"v{number}"), now_s=1.0)
    assert len(ages.told(1.0)["fraud"]) == VIEWS_MAX
