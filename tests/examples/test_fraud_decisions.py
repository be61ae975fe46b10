"""What decisions were worth is counted once a payment, and the hourly job stops nothing that was paid before it ran."""

from __future__ import annotations

import json

import numpy as np
from decisions import Replay, stop_hourly


def times(*texts: str) -> np.ndarray:
    """Return times of one day, written as HH:MM, or with a day in front."""
    return np.array([text if "T" in text else f"2026-03-04T{text}" for text in texts], dtype="datetime64[us]")


def replay() -> Replay:
    """Return three payments, the second of them fraud; on last night's profiles the third would be held."""
    return Replay(
        bodies=[b"{}"] * 3,
        customers=np.array([1, 2, 3]),
        times=times("10:00", "10:01", "10:02"),
        amounts=np.array([10.0, 20.0, 30.0]),
        is_fraud=np.array([False, True, False]),
        scores=np.array([0.1, 0.9, 0.2]),
        nightly_stopped=np.array([False, False, True]),
    )


def answer(decision: str, score: float) -> bytes:
    """Return the body of an answer."""
    return json.dumps({"decision": decision, "score": score}).encode()


def test_hourly_job_lets_through_its_own_hour() -> None:
    """A card flagged at 10:05 still pays at 10:55, and is stopped from 11:00 on."""
    stopped = stop_hourly(
        np.array([1, 1, 1, 1]), times("10:05", "10:55", "11:00", "23:59"), np.array([True, False, False, True])
    )
    assert stopped.tolist() == [False, False, True, True]


def test_hourly_job_forgets_at_midnight() -> None:
    """A card is stopped until midnight, and no longer."""
    stopped = stop_hourly(np.array([1, 1]), times("2026-03-04T22:30", "2026-03-05T00:10"), np.array([True, False]))
    assert stopped.tolist() == [False, False]


def test_hourly_job_stops_that_card_only() -> None:
    """Another customer's card pays on."""
    stopped = stop_hourly(np.array([1, 2, 1]), times("10:05", "12:00", "12:00"), np.array([True, False, False]))
    assert stopped.tolist() == [False, False, True]


def test_decide_counts_answered_payments() -> None:
    """A payment that was refused or never answered is left out, with its amount and its label."""
    decided = replay().decide([answer("allow", 0.1), None, json.dumps({"status": 503}).encode()])
    assert decided.labels.tolist() == ["allow"]
    assert decided.amounts.tolist() == [10.0]
    assert not decided.is_fraud.any()


def test_decide_counts_repeated_payments_once() -> None:
    """Where the schedule is longer than the replay, the second time around is not counted again."""
    answers = [answer("allow", 0.1), answer("review", 0.9), answer("block", 0.2)]
    decided = replay().decide(answers * 2)
    assert decided.labels.tolist() == ["allow", "review", "block"]
    assert decided.caught.tolist() == [False, True, True]
    assert decided.nightly_stopped.tolist() == [False, False, True]


def test_decide_tells_score_difference() -> None:
    """Scores that are others than the offline ones are counted, and the largest difference of all the rest is told."""
    decided = replay().decide([answer("allow", 0.100001), answer("block", 0.85), answer("allow", float("nan"))])
    assert decided.differing == 2
    assert abs(decided.score_difference_max - 1e-6) < 1e-9


def test_decide_without_answers() -> None:
    """Nothing answered gives nothing decided."""
    assert len(replay().decide([None, None, None]).labels) == 0
