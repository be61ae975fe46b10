from __future__ import annotations

from typing import Any

import pytest

from tailrace.inference.manifest import SessionSettings
from tailrace.offline.optimize.journal import Trial
from tailrace.offline.optimize.metric import Metric
from tailrace.offline.optimize.recipes import Recipe
from tailrace.offline.optimize.timing import Timing
from tailrace.offline.optimize.verdict import Terms, judge

AUC = Metric("auc", (0, 1))
TERMS = Terms(AUC, 0.001, 20_000_000)


def timing(speedup: float, *, low: float | None = None, p99_ns: int = 2_000_000) -> Timing:
    """Return what a call took."""
    return Timing(
        batch=1, p50_ns=round(1_000_000 / speedup), p99_ns=p99_ns, base_p50_ns=1_000_000, base_p99_ns=2_000_000,
        speedup=speedup, speedup_low=low or speedup * 0.97, speedup_high=speedup * 1.03, calls=100,
    )  # fmt: skip


def trial(speedup: float, *, recipe: Recipe | None = None, backend: str = "ONNX Runtime", **changes: Any) -> Trial:
    """Return a candidate that was measured."""
    own: dict[str, Any] = {"size_bytes": 1_000, "metric": 0.9, "timings": (timing(speedup),)} | changes
    return Trial(recipe=recipe or Recipe(kind="int8 dynamic"), backend=backend, status="measured", **own)


BASELINE = trial(1.0, recipe=Recipe())


def test_fastest_within_the_tolerance_wins() -> None:
    """A faster one that lost too much does not win; the sentence says how fast, how small, how good, how far off."""
    worse = trial(5.0, recipe=Recipe(kind="float16"), metric=0.8985)
    winner = trial(3.0, metric=0.8995, size_bytes=260, difference_max=0.02)
    verdict = judge([BASELINE, worse, winner], TERMS)
    assert verdict.winner is winner
    assert verdict.standings == ("baseline", "worse", "wins")
    for words in ("int8 dynamic · ONNX Runtime wins", "3.0 times as fast", "0.26 of its size", "0.9 → 0.8995", "0.02"):
        assert words in verdict.why


def test_tolerance_that_nothing_meets_leaves_the_model() -> None:
    """Nothing wins, and the sentence says how many lost how much, and who computes the model."""
    verdict = judge([BASELINE, trial(4.0, metric=0.88), trial(3.0, metric=0.89)], TERMS)
    assert verdict.winner is None
    assert (
        "Nothing is faster within the tolerance: the model stays as packaged, computed by ONNX Runtime" in verdict.why
    )
    assert "2 lost more than 0.001 of auc" in verdict.why
    assert "0.01" in verdict.why


def test_loss_is_better_where_it_is_less() -> None:
    """A log loss that falls is no loss at all; one that rises is."""
    terms = Terms(Metric("log_loss", (0, 1)), 0.001, 20_000_000)
    verdict = judge([BASELINE, trial(2.0, metric=0.85), trial(3.0, metric=0.91)], terms)
    assert verdict.standings == ("baseline", "wins", "worse")


@pytest.mark.parametrize(
    ("changes", "standing"),
    [
        ({"timings": (timing(3.0, p99_ns=30_000_000),)}, "late"),
        ({"recipe": Recipe(session=SessionSettings(threads=4))}, "threads"),
        ({"difference_max": 0.3}, "moved"),
        ({"metric": 0.5}, "worse"),
    ],
)
def test_what_was_not_asked_for_does_not_win(changes: dict[str, Any], standing: str) -> None:
    """Over the budget, with more threads than allowed, or with a score that moves too far: measured, and not chosen."""
    verdict = judge([BASELINE, trial(3.0, **changes)], TERMS._replace(change_max=0.1))
    assert (verdict.winner, verdict.standings[1]) == (None, standing)


def test_speedup_within_the_noise_does_not_win() -> None:
    """A median of 1.2 whose lower bound is below 1 is nothing that one can rely on."""
    assert judge([BASELINE, trial(1.2, timings=(timing(1.2, low=0.98),))], TERMS).winner is None
    assert judge([BASELINE, trial(1.2, timings=(timing(1.2, low=1.15),))], TERMS).winner is not None


def test_lucky_median_does_not_beat_a_steady_one() -> None:
    """Compared is the lower bound: a median of 10 that may be 3.2 loses to a 3.8 that is at least 3.7."""
    lucky = trial(10.0, timings=(timing(10.0, low=3.2),))
    steady = trial(3.8, recipe=Recipe(kind="int8 static"), timings=(timing(3.8, low=3.7),))
    assert judge([BASELINE, lucky, steady], TERMS).winner is steady


def test_winner_is_faster_than_whatever_computes_the_model_already() -> None:
    """Where bit vectors compute it anyway, what is faster than ONNX Runtime alone is no gain."""
    packaged = trial(3.0, recipe=Recipe(), backend="bit vectors")
    verdict = judge([BASELINE, packaged, trial(2.5)], TERMS)
    assert verdict.winner is None
    assert "computed by bit vectors" in verdict.why
    faster = trial(4.0, backend="bit vectors", recipe=Recipe(kind="fewer trees", trees=20, of=40))
    verdict = judge([BASELINE, packaged, faster], TERMS)
    assert verdict.winner is faster
    assert "20 of 40 trees · bit vectors wins" in verdict.why
    assert "1.3 times as fast as bit vectors on it" in verdict.why


def test_smaller_file_wins_among_equals() -> None:
    """Within 5% the smallest is taken."""
    small = trial(2.95, recipe=Recipe(kind="int8 static"), size_bytes=250)
    assert judge([BASELINE, trial(3.0, size_bytes=900), small], TERMS).winner is small


def test_failed_and_skipped_are_told_as_such() -> None:
    """What could not be measured is in the list, and wins nothing."""
    failed = Trial(recipe=Recipe(kind="float16"), backend="", status="failed", why="out of memory")
    skipped = Trial(recipe=Recipe(), backend="CUDA", status="skipped", why="no GPU")
    assert judge([BASELINE, failed, skipped], TERMS).standings == ("baseline", "failed", "skipped")


def test_loss_that_may_be_luck_does_not_win() -> None:
    """A metric that looks no worse, on rows too few to know, is told as such, with how many rows would tell."""
    lucky = trial(3.0, metric=0.9002, loss_error=0.004)
    verdict = judge([BASELINE, lucky], TERMS._replace(rows=225))
    assert (verdict.winner, verdict.standings[1]) == (None, "unclear")
    assert "1 may be within it, or not: 225 rows that judge do not tell" in verdict.why
    assert "about 6,766 would for int8 dynamic" in verdict.why
    sure = trial(3.0, metric=0.9002, loss_error=0.0004)
    verdict = judge([BASELINE, sure], TERMS)
    assert verdict.winner is sure
    assert "0.0005 worse at most (95%), of 0.001 allowed" in verdict.why
    assert "no worse" in judge([BASELINE, trial(3.0, metric=0.9002, loss_error=0.0001)], TERMS).why
