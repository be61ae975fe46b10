"""Live quality by counts alone is what scikit-learn says of all rows."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics

from tailrace.monitor.drift.outcomes import THRESHOLDS_MAX, Outcomes


def labelled(rows: int = 20_000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return scores as of fraud, most of them tiny, and what came true of them."""
    rng = np.random.default_rng(seed)
    scores = 1 / (1 + np.exp(-rng.normal(-6, 2.5, rows)))
    return scores, (rng.uniform(size=rows) < scores).astype(np.int64)


def test_scorecard_is_scikit_learns() -> None:
    """Precision and recall, Brier and log loss are exact; the area is within the error that is told."""
    scores, truth = labelled()
    outcomes = Outcomes((0.1, 0.6))
    for part in np.array_split(np.arange(len(scores)), 7):
        outcomes.add(scores[part], truth[part])
    found = outcomes.scorecard()
    assert (found.rows, found.positives, found.unknown) == (20_000, truth.sum(), 0)
    assert found.auc == pytest.approx(metrics.roc_auc_score(truth, scores), abs=found.auc_error_max + 1e-12)
    assert 0 < found.auc_error_max < 0.005
    assert found.brier == pytest.approx(metrics.brier_score_loss(truth, scores))
    assert found.log_loss == pytest.approx(metrics.log_loss(truth, scores))
    for each in found.thresholds:
        assert each.precision == pytest.approx(metrics.precision_score(truth, scores >= each.threshold))
        assert each.recall == pytest.approx(metrics.recall_score(truth, scores >= each.threshold))


def test_rows_weigh_as_many_as_they_stand_for() -> None:
    """Half the rows, of which some stand for ten: what is said of them is what scikit-learn says with such weights."""
    scores, truth = labelled()
    weights = np.where(np.random.default_rng(3).uniform(size=len(scores)) < 0.3, 10.0, 1.0)
    outcomes, repeated = Outcomes((0.1,)), Outcomes((0.1,))
    outcomes.add(scores, truth, weights)
    repeated.add(np.repeat(scores, weights.astype(int)), np.repeat(truth, weights.astype(int)))
    found, whole = outcomes.scorecard(), repeated.scorecard()
    assert found.auc == pytest.approx(
        metrics.roc_auc_score(truth, scores, sample_weight=weights), abs=found.auc_error_max + 1e-12
    )
    for name in ("auc", "auc_error_max", "brier", "log_loss", "calibration_error"):
        assert getattr(found, name) == pytest.approx(getattr(whole, name)), name
    for name in ("precision", "recall"):
        assert getattr(found.thresholds[0], name) == pytest.approx(getattr(whole.thresholds[0], name)), name
    assert (found.rows, found.positives) == (20_000, truth.sum())
    assert found.expected == pytest.approx(scores.sum())


def test_calibration_tells_a_model_that_promises_too_much() -> None:
    """Of scores that are what comes true the error is small; of halved ones it is what they are off."""
    scores, truth = labelled()
    good, half = Outcomes(), Outcomes()
    good.add(scores, truth)
    half.add(scores / 2, truth)
    assert good.scorecard().calibration_error < 0.003  # type: ignore[operator]
    told = half.scorecard()
    assert told.calibration_error == pytest.approx(scores.mean() / 2, rel=0.1)
    assert told.expected == pytest.approx(truth.sum() / 2, rel=0.1)
    assert all(each.score is None for each in told.calibration[5:])


def test_parts_add_up() -> None:
    """Two processes know together what one would."""
    scores, truth = labelled(1_000)
    whole, first, second = Outcomes((0.5,)), Outcomes((0.5,)), Outcomes((0.5,))
    whole.add(scores, truth)
    first.add(scores[:300], truth[:300])
    second.add(scores[300:], truth[300:])
    first.merge(second)
    for ours, theirs in zip(first.arrays, whole.arrays, strict=True):
        assert ours == pytest.approx(theirs)
    with pytest.raises(ValueError, match="are not those at"):
        first.merge(Outcomes())


@pytest.mark.filterwarnings("error")
def test_what_is_no_score_or_no_label_is_counted_apart() -> None:
    """A score that failed, one that is no probability, and a label that is none are not guessed at."""
    outcomes = Outcomes((0.5,))
    assert outcomes.scorecard().brier is None
    outcomes.add(np.array([0.0, 1.0, np.nan, 1.5, 0.5, 0.7]), np.array([0.0, 1, 1, 0, 2, np.nan]))
    found = outcomes.scorecard()
    assert (found.rows, found.unknown) == (2, 4)
    assert found.auc == 1.0
    assert found.log_loss == pytest.approx(0, abs=1e-12)


def test_one_class_alone_has_no_area() -> None:
    """Without a fraud there is nothing to rank, and nothing to recall."""
    outcomes = Outcomes((0.9,))
    outcomes.add(np.array([0.1, 0.2]), np.array([0, 0]))
    found = outcomes.scorecard()
    assert found.auc is None
    assert (found.thresholds[0].precision, found.thresholds[0].recall) == (None, None)


def test_thresholds_are_bounded() -> None:
    """More are refused."""
    with pytest.raises(ValueError, match="20 at most"):
        Outcomes([0.5] * (THRESHOLDS_MAX + 1))
