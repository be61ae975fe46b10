"""The slowest requests: exact over both spans, in constant memory, and nothing of what was sent."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from tailrace.deadline import NS_PER_MS, NS_PER_S
from tailrace.monitor.predictions import Predictions
from tailrace.monitor.slowest import PIPELINES_MAX, SLOW_MAX, STEPS_MAX, TEXT_MAX, Slowest, slow_request


def took(*whole_ms: float, pipeline: str = "fraud", **changed: Any) -> Predictions:
    """Return requests of a row each that took so long; their ids are their times."""
    count = len(whole_ms)
    whole_ns = np.array([int(each * NS_PER_MS) for each in whole_ms], np.int64)
    facts: dict[str, Any] = {
        "pipeline": pipeline, "release": "r1", "slot": 0, "requests": [b'{"card":"secret"}'] * count,
        "request_ids": [f"{each:g}" for each in whole_ms], "traces": [""] * count, "clients": [""] * count,
        "errors": [""] * count, "answered_ns": np.full(count, 7 * NS_PER_S, np.int64),
        "waits_ns": whole_ns // 10, "whole_ns": whole_ns, "layers_ns": np.tile(whole_ns[:, None] // 8, (1, 5)),
        "row_request": None, "features": {}, "provenance": {}, "event_ns": {},
        "scores": np.full(count, 0.25), "decisions": np.ones(count, np.int64), "labels": ("allow", "block"),
        "reasons": None, "degraded": np.zeros(count, np.uint8), "failed": np.zeros(count, np.bool_),
    }  # fmt: skip
    return Predictions(**facts | changed)


def told(slowest: Slowest, now_s: float) -> list[float]:
    """Return how long those took that are told."""
    return [each.whole for each in slowest.find(now_s)["fraud"]]


def test_slowest_are_those_of_all_that_were_taken() -> None:
    """Of many requests in batches of any size, the slowest are told, the slowest first."""
    slowest, drawn = Slowest(), np.random.default_rng(7)
    times = np.round(drawn.gamma(2, 3, 5_000), 3)
    for part in np.split(times, np.sort(drawn.integers(0, len(times), 60))):
        slowest.take(took(*part.tolist()), 3.0)
    assert told(slowest, 4.0) == np.sort(times)[::-1][:SLOW_MAX].tolist()


def test_last_minute_is_told_beside_ten() -> None:
    """What was slow minutes ago hides nothing of the last minute, and is gone after ten."""
    slowest = Slowest()
    slowest.take(took(*[500.0 + each for each in range(SLOW_MAX)]), 0.0)
    slowest.take(took(*[5.0 + each for each in range(SLOW_MAX)]), 300.0)
    assert len(told(slowest, 301.0)) == 2 * SLOW_MAX
    assert min(told(slowest, 301.0)) == 5
    assert told(slowest, 450.0) == [519.0 - each for each in range(SLOW_MAX)]
    assert max(told(slowest, 700.0)) == 5 + SLOW_MAX - 1


def test_memory_is_bounded() -> None:
    """Hours of traffic, and any number of pipelines, keep so many requests at most."""
    slowest = Slowest()
    for second in range(0, 7_200, 5):
        slowest.take(took(*[1.0 + second] * 50), float(second))
    for number in range(2 * PIPELINES_MAX):
        slowest.take(took(1.0, pipeline=str(number)), 7_200.0)
    assert len(slowest._pipelines) == PIPELINES_MAX
    assert len(slowest._pipelines["fraud"]) <= STEPS_MAX + 1
    assert all(len(kept) == SLOW_MAX for _, kept in slowest._pipelines["fraud"])


def test_request_is_told_without_what_was_sent() -> None:
    """Its times, its decision, why it is degraded; no field of the request, and no id without an end."""
    degraded, failed = np.array([2, 0], np.uint8), np.array([False, True])
    found = took(40.0, 9.0, request_ids=["x" * 9_000, "b"], degraded=degraded, failed=failed, errors=["", "internal"])
    request = slow_request(found, 0)
    assert (request.whole, request.wait, request.layers) == (40.0, 4.0, (5.0,) * 5)
    assert (request.at_s, request.release, request.decision, request.score) == (7.0, "r1", "block", 0.25)
    assert (request.degraded, request.id, request.error) == (("store_timeout",), "x" * TEXT_MAX, "")
    assert b"secret" not in msgspec.json.encode(request)
    other = slow_request(found, 1)
    assert (other.decision, other.score, other.error) == ("", None, "internal")


def test_request_of_several_rows_has_no_decision_of_its_own() -> None:
    """It is told how many rows it has, and why any of them is degraded; one of no rows is told too."""
    found = took(
        40.0, 30.0, row_request=np.array([0, 0]), scores=np.array([0.1, np.nan]), degraded=np.array([1, 8], np.uint8)
    )
    request = slow_request(found, 0)
    assert (request.rows, request.decision, request.score) == (2, "", None)
    assert request.degraded == ("stale_features", "model_error")
    assert slow_request(found, 1).rows == 0
