"""Which traces are named beside the buckets of times."""

from __future__ import annotations

from typing import Any

import numpy as np

from tailrace.deadline import NS_PER_MS, NS_PER_S
from tailrace.monitor.exemplars import AGE_S_MAX, PIPELINES_MAX, Exemplars
from tailrace.monitor.predictions import Predictions


def answered(*calls: tuple[float, str], pipeline: str = "fraud", at_s: int = 100) -> Predictions:
    """Return requests that took so many ms, each as part of a trace or of none."""
    count = len(calls)
    zeros = np.zeros(count, np.int64)
    facts: dict[str, Any] = {
        "pipeline": pipeline, "release": "r1", "slot": 0, "requests": [b"{}"] * count, "request_ids": [""] * count,
        "traces": [trace for _, trace in calls], "clients": [""] * count, "errors": [""] * count,
        "answered_ns": zeros + at_s * NS_PER_S, "waits_ns": zeros, "row_request": None,
        "whole_ns": np.array([int(took_ms * NS_PER_MS) for took_ms, _ in calls], np.int64),
        "layers_ns": np.zeros((count, 5), np.int64), "features": {}, "provenance": {}, "event_ns": {},
        "scores": np.zeros(count), "decisions": None, "labels": (), "reasons": None,
        "degraded": np.zeros(count, np.uint8), "failed": np.zeros(count, np.bool_),
    }  # fmt: skip
    return Predictions(**facts)


def traces(exemplars: Exemplars, now_s: float = 100.0) -> dict[str, set[str]]:
    """Return the traces that are told, by pipeline."""
    return {name: {each.trace for each in kept} for name, kept in exemplars.told(now_s).items()}


def test_last_trace_of_each_bucket_is_told() -> None:
    """Of those in one bucket the last; of calls without a trace none."""
    exemplars = Exemplars({"fraud": 50 * NS_PER_MS})
    exemplars.take(answered((3.0, "a"), (3.1, "b"), (3.2, ""), (45.0, "c"), (900.0, "d")))
    exemplars.take(answered((3.3, "")))
    assert traces(exemplars) == {"fraud": {"b", "c", "d"}}


def test_as_many_are_told_as_there_are_buckets() -> None:
    """A hundred thousand traces, of times from nothing to minutes, are told of by a few dozen."""
    exemplars = Exemplars({"fraud": 50 * NS_PER_MS})
    times = np.exp(np.random.default_rng(12).uniform(-9, 12, 100_000))
    exemplars.take(answered(*((took_ms, f"{place}") for place, took_ms in enumerate(times.tolist()))))
    assert 25 < len(traces(exemplars)["fraud"]) <= 50


def test_old_trace_is_told_no_more() -> None:
    """After some minutes it may be gone where traces are kept."""
    exemplars = Exemplars({"fraud": 50 * NS_PER_MS})
    exemplars.take(answered((3.0, "a"), at_s=100))
    exemplars.take(answered((30.0, "b"), at_s=400))
    assert traces(exemplars, 101 + AGE_S_MAX) == {"fraud": {"b"}}
    assert traces(exemplars, 401 + AGE_S_MAX) == {}


def test_pipelines_are_those_that_are_served_and_not_too_many() -> None:
    """What no layout knows has no exemplars, nor has the pipeline beyond the most that are kept of."""
    exemplars = Exemplars({f"p{number}": 50 * NS_PER_MS for number in range(PIPELINES_MAX + 1)})
    for name in ("p0", "unknown", f"p{PIPELINES_MAX}"):
        exemplars.take(answered((3.0, "a"), pipeline=name))
    assert traces(exemplars) == {"p0": {"a"}}
