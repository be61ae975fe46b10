"""What is logged of requests where a pipeline keeps a share of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from test_prediction_log import predictions

import tailrace as tr
from tailrace.errors import CompileError
from tailrace.monitor.log.columns import log_table
from tailrace.monitor.log.sampling import logged_part
from tailrace.monitor.predictions import LogChoice, Predictions
from tailrace.pipeline import Pipeline
from tailrace.server.request_ids import RequestIds


def ids_of(found: Predictions | None) -> list[str]:
    """Return the ids of what is logged."""
    return [] if found is None else found.request_ids


def chosen(sample: float, *keep: str, count: int = 10_000, **changed: Any) -> Predictions | None:
    """Return what is logged of many predictions, of which no answer is degraded."""
    choice = LogChoice(sample, keep, 50_000)
    plain = {"degraded": np.zeros(count, np.uint8), "choice": choice}
    return logged_part(predictions(0, count, **plain | changed))


@pytest.mark.parametrize("sample", [0.01, 0.1, 0.5])
@pytest.mark.parametrize("named", ["callers", "server"])
def test_share_of_the_requests_is_kept_by_their_ids(sample: float, named: str) -> None:
    """About as many as are asked for, whoever has named them; the same ones again, and among a larger share."""
    names = [name.decode() for name in RequestIds().take_many(10_000)] if named == "server" else None
    changed = {} if names is None else {"request_ids": names}
    found = chosen(sample, **changed)
    assert found is not None
    assert found.rows == pytest.approx(10_000 * sample, abs=5 * (10_000 * sample) ** 0.5)
    assert ids_of(chosen(sample, **changed)) == found.request_ids
    assert set(found.request_ids) <= set(ids_of(chosen(2 * sample, **changed)))
    assert found.shares is not None
    assert found.shares.tolist() == pytest.approx([sample] * found.rows)


def test_requests_without_ids_are_chosen_by_what_they_are() -> None:
    """None is an id."""
    found = chosen(0.1, request_ids=[""] * 10_000)
    assert found is not None
    assert found.rows == pytest.approx(1_000, rel=0.25)


def test_all_and_nothing() -> None:
    """No share is a share too."""
    every = chosen(1.0)
    assert every is not None
    assert (every.rows, every.shares) == (10_000, None)
    assert chosen(0.0) is None


def test_what_went_wrong_is_kept_whatever_the_share() -> None:
    """Degraded, failed and slow ones, where they are to be kept, and none else; each stands for itself alone."""
    bits, failed = np.zeros(5, np.uint8), np.zeros(5, np.bool_)
    bits[1], failed[2] = 4, True
    changed: dict[str, Any] = {
        "count": 5, "degraded": bits, "failed": failed, "errors": ["", "", "", "server", ""],
        "whole_ns": np.array([1, 1, 1, 1, 60_000]),
    }  # fmt: skip
    assert ids_of(chosen(0.0, "degraded", **changed)) == ["r1"]
    assert ids_of(chosen(0.0, "failed", **changed)) == ["r2", "r3"]
    assert ids_of(chosen(0.0, "slow", **changed)) == ["r4"]
    found = chosen(0.0, "degraded", "failed", "slow", **changed)
    assert ids_of(found) == ["r1", "r2", "r3", "r4"]
    assert found is not None
    assert [line["share"] for line in log_table(found).to_pylist()] == [1.0] * 4


def test_rows_stay_with_their_requests() -> None:
    """Of requests with many rows and with none."""
    rows = np.array([0, 0, 1, 3, 3])
    found = predictions(
        0, 5, row_request=rows, degraded=np.array([0, 0, 0, 0, 4], np.uint8), reasons=[("a",), (), ("b",), ("c",), ()],
        branches={"split": list("vwxyz")}, choice=LogChoice(0.0, ("degraded", "failed"), 0),
        errors=["", "", "", "", "server"],
    )  # fmt: skip
    kept = logged_part(found)
    assert kept is not None
    assert (kept.request_ids, kept.places.tolist()) == (["r3", "r4"], [0, 0])
    assert kept.features["amount"].tolist() == [3.0, 4.0]
    assert (kept.reasons, kept.branches) == ([("c",), ()], {"split": ["y", "z"]})
    lines = log_table(kept).to_pylist()
    assert [(line["request_id"], line["row"], line["error"]) for line in lines] == [
        ("r3", 0, None), ("r3", 1, None), ("r4", 0, "server"),
    ]  # fmt: skip
    assert json.loads(lines[0]["request"]) == {"n": 3}


def test_what_is_out_of_range_is_refused(pipeline_of: Callable[[str], Pipeline]) -> None:
    """With what to write."""
    for sample in (-0.1, 1.5, True, "all"):
        with pytest.raises(ValueError, match="from 0 to 1"):
            tr.Log(sample)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'degraded', 'failed', 'slow'"):
        tr.Log(0.1, keep=("late",))
    with pytest.raises(ValueError, match="choose among"):
        tr.Log(0.1, keep="failed")
    with pytest.raises(CompileError, match=r"tr\.Log"):
        replace(pipeline_of("log"), log=None)
