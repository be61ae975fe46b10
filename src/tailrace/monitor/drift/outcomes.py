"""How good live scores were, once it is known what came true: precision, recall, AUC, calibration. Constant memory.

Scores are counted by label in cells of equal width in log odds, so that scores of one in a million, as of fraud, are as
far apart as those about a half. Nothing of a row is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from tailrace.monitor.drift.statistics import Floats

CELLS: Final = 2_048
ODDS_MAX: Final = 16.0
"""Log odds of the last cell; beyond them is a score of one in nine million."""
CALIBRATION_BINS: Final = 10
THRESHOLDS_MAX: Final = 20
_TINY: Final = 1e-15


class AtThreshold(msgspec.Struct, frozen=True, kw_only=True):
    """What calling every score from a threshold on positive would have been worth; None of nothing by nothing."""

    threshold: float
    precision: float | None
    recall: float | None
    flagged: int


class CalibrationBin(msgspec.Struct, frozen=True, kw_only=True):
    """Of the rows whose score is in a tenth of the scale: how many, their mean score, and the share that came true."""

    rows: int
    score: float | None
    came_true: float | None


class Scorecard(msgspec.Struct, frozen=True, kw_only=True):
    """The quality of labelled rows, each of which weighs as many as it stands for; counts are of the rows themselves.

    auc: the area under the receiver operating curve, None with one class alone; it is off by auc_error_max at most,
    since scores of one cell are taken as equal. calibration_error: the mean over the rows of how far the bins' scores
    are from what came true. expected: the positives that the scores promise, beside those there were. unknown: rows
    that were left out, without a score or a label of 0 or 1.
    """

    rows: int
    positives: int
    unknown: int
    expected: float
    auc: float | None
    auc_error_max: float
    brier: float | None
    log_loss: float | None
    calibration_error: float | None
    calibration: tuple[CalibrationBin, ...]
    thresholds: tuple[AtThreshold, ...]


class DecisionOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """One decision as it was made, rules and all; None of nothing by nothing.

    precision: of its rows, the share that came true. recall: of all that came true, the share that is among its rows.
    """

    decision: str
    rows: int
    precision: float | None
    recall: float | None


class LiveOutcomes(msgspec.Struct, frozen=True, kw_only=True):
    """How good the predictions of the last while were, by labels that came later. ended_s: since the epoch.

    lines: of the log, in that time. labels: one a request. left_out: older ones, of too many. unknown_ids: that no line
    has; several_rows: requests whose label says not which row it is of.
    """

    ended_s: float
    span_s: float
    lines: int
    labels: int
    left_out: int
    unknown_ids: int
    several_rows: int
    scorecard: Scorecard
    decisions: tuple[DecisionOutcome, ...]


class Outcomes:
    """Gathers labelled scores of a model of two classes. thresholds: of its bands, 20 at most."""

    def __init__(self, thresholds: Sequence[float] = ()) -> None:
        if len(thresholds) > THRESHOLDS_MAX:
            raise ValueError(f"outcomes at {len(thresholds)} thresholds; choose {THRESHOLDS_MAX} at most")
        self.thresholds = tuple(thresholds)
        self._cells = np.zeros((2, CELLS))
        self._bins = np.zeros((4, CALIBRATION_BINS))  # rows; by weight: rows, positives, sums of scores
        self._flagged = np.zeros((3, len(self.thresholds)))  # rows; by weight: rows, positives
        self._totals = np.zeros(2)  # positives, the sum of the scores
        self._losses = np.zeros(2)  # squared, logarithmic; by weight
        self._unknown = 0

    @property
    def arrays(self) -> tuple[Floats, ...]:
        """All that has been counted; it is added up over processes."""
        return self._cells, self._bins, self._flagged, self._totals, self._losses

    def add(self, scores: NDArray[Any], came_true: NDArray[Any], weights: NDArray[Any] | None = None) -> None:
        """Add labelled rows. scores: probabilities, (rows,). came_true: 0 or 1; what is neither is left out.

        weights: how many rows each stands for, (rows,); 1 where none are given.
        """
        known = np.isfinite(scores) & (scores >= 0) & (scores <= 1) & ((came_true == 0) | (came_true == 1))
        self._unknown += int(len(scores) - np.count_nonzero(known))
        found, truth = scores[known].astype(np.float64), came_true[known].astype(np.intp)
        weight = np.ones_like(found) if weights is None else weights[known].astype(np.float64)
        safe = np.clip(found, _TINY, 1 - _TINY)
        odds = np.log(safe) - np.log1p(-safe)
        cells = np.clip((odds + ODDS_MAX) * (CELLS / (2 * ODDS_MAX)), 0, CELLS - 1).astype(np.intp)
        self._cells += np.bincount(truth * CELLS + cells, weight, 2 * CELLS).reshape(2, CELLS)
        bins = np.minimum((found * CALIBRATION_BINS).astype(np.intp), CALIBRATION_BINS - 1)
        parts = np.ones_like(found), weight, weight * truth, weight * found
        self._bins += [np.bincount(bins, part, CALIBRATION_BINS) for part in parts]
        self._totals += float(truth.sum()), float(found.sum())
        for place, threshold in enumerate(self.thresholds):
            flagged = found >= threshold
            own = weight[flagged]
            self._flagged[:, place] += len(own), own.sum(), own @ truth[flagged]
        said = np.where(truth == 1, safe, 1 - safe)
        self._losses += float(weight @ (found - truth) ** 2), float(-(weight @ np.log(said)))

    def merge(self, other: Outcomes) -> None:
        """Add another one's rows, at the same thresholds."""
        if self.thresholds != other.thresholds:
            raise ValueError(f"outcomes at {other.thresholds} are not those at {self.thresholds}")
        for ours, theirs in zip(self.arrays, other.arrays, strict=True):
            np.add(ours, theirs, out=ours)
        self._unknown += other._unknown

    def scorecard(self) -> Scorecard:
        """Return what the rows so far say."""
        rows, weights, positives, sums = self._bins
        count, true = float(weights.sum()), float(positives.sum())
        auc, error = self._area(true, count - true)
        means, shares = (np.divide(part, weights, np.zeros_like(rows), where=rows > 0) for part in (sums, positives))
        squared, logarithmic = self._losses.tolist()
        return Scorecard(
            rows=int(rows.sum()),
            positives=int(self._totals[0]),
            unknown=self._unknown,
            expected=float(self._totals[1]),
            auc=auc,
            auc_error_max=error,
            brier=squared / count if count else None,
            log_loss=logarithmic / count if count else None,
            calibration_error=float((np.abs(means - shares) * weights).sum() / count) if count else None,
            calibration=tuple(
                CalibrationBin(rows=int(of), score=mean if of else None, came_true=share if of else None)
                for of, mean, share in zip(rows.tolist(), means.tolist(), shares.tolist(), strict=True)
            ),
            thresholds=tuple(self._at(place, true) for place in range(len(self.thresholds))),
        )

    def _area(self, positives: float, negatives: float) -> tuple[float | None, float]:
        """Return the area, the chance that a positive scores above a negative, and how far it may be off."""
        if not positives or not negatives:
            return None, 0.0
        false, true = self._cells
        below = np.cumsum(false) - false
        ties = float((true * false).sum()) / 2
        pairs = positives * negatives
        return (float((true * below).sum()) + ties) / pairs, ties / pairs

    def _at(self, place: int, positives: float) -> AtThreshold:
        rows, flagged, found = self._flagged[:, place].tolist()
        return AtThreshold(
            threshold=self.thresholds[place],
            precision=found / flagged if flagged else None,
            recall=found / positives if positives else None,
            flagged=int(rows),
        )
