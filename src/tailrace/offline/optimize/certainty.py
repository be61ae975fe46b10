"""How far the loss of a metric may be off by the luck of the rows: its standard error, of pairs of scores.

The two models score the same rows, so that most of the luck is in both and cancels. An AUC's error is DeLong's
(DeLong, DeLong and Clarke-Pearson, Biometrics 44, 1988); that of a mean is the spread of the differences; an average
precision is computed again of rows that are drawn with replacement.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tailrace.offline.optimize.metric import Metric
from tailrace.release.metrics import find_truth

Z: Final = 1.645
"""Standard errors above the loss below which the true one is at 95%."""
DRAWS: Final = (100, 400)
DRAWN_MAX: Final = 20_000_000
"""Rows drawn in all, between so many draws at least and at most."""

Scores = NDArray[np.float64]


def loss_error(metric: Metric, before: NDArray[Any], after: NDArray[Any], outcomes: Sequence[Any]) -> float:
    """Return the standard error of by how much a metric is worse for one model's scores than for another's.

    before, after: the scores of the same rows, (rows,) or (rows, classes).
    """
    scores = (np.asarray(before, np.float64), np.asarray(after, np.float64))
    if np.array_equal(*scores):
        return 0.0
    if not metric.classes:
        own, other = (_influences(metric.name, each - np.asarray(outcomes, np.float64)) for each in scores)
        return _error(own - other)
    truth = find_truth(np.array(outcomes, object), metric.classes)
    if metric.name == "auc":
        (won, lost), (won_after, lost_after) = (_placements(each, truth == 1) for each in scores)
        return float(np.hypot(_error(won_after - won), _error(lost_after - lost)))
    if metric.name == "average_precision":
        return _error_of_draws(*scores, truth == 1)
    own, other = (_losses(metric.name, each, truth) for each in scores)
    return _error(own - other)


def rows_needed(rows: int, loss: float, error: float, tolerance: float) -> int | None:
    """Return how many rows would show that a loss is within the tolerance, were it as found; None where none would."""
    room = tolerance - loss
    return None if room <= 0 else int(np.ceil(rows * (Z * error / room) ** 2))


def _error(values: Scores) -> float:
    """Return the standard error of a mean."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("inf")


def _influences(name: str, errors: Scores) -> Scores:
    """Return what each row adds to the mean absolute error, or to the root of the mean square, to the first order."""
    if name == "mae":
        return np.abs(errors)
    root = np.sqrt(np.mean(errors**2))
    return np.asarray(errors**2 / (2 * root) if root else np.zeros(len(errors)))


def _losses(name: str, scores: Scores, truth: NDArray[np.intp]) -> Scores:
    """Return each row's loss: of accuracy, or the logarithm of what came true."""
    if name == "accuracy":
        told = scores >= 0.5 if scores.ndim == 1 else scores.argmax(axis=1)
        return np.asarray(told != truth, np.float64)
    held = np.where(truth == 1, scores, 1 - scores) if scores.ndim == 1 else scores[np.arange(len(truth)), truth]
    return np.asarray(-np.log(np.clip(held, 1e-15, 1.0)))


def _placements(scores: Scores, truth: NDArray[np.bool_]) -> tuple[Scores, Scores]:
    """Return for each row of the second outcome which share of the first it stands above, and the reverse."""
    positives, negatives = np.sort(scores[truth]), np.sort(scores[~truth])
    return _share_below(negatives, scores[truth]), 1 - _share_below(positives, scores[~truth])


def _share_below(ordered: Scores, scores: Scores) -> Scores:
    """Return which share of some scores is below each of others; an equal one counts half."""
    return (np.searchsorted(ordered, scores, "left") + np.searchsorted(ordered, scores, "right")) / (2 * len(ordered))


def _error_of_draws(before: Scores, after: Scores, truth: NDArray[np.bool_]) -> float:
    rng = np.random.default_rng(0)
    count = int(np.clip(DRAWN_MAX // len(truth), *DRAWS))
    precise_before, precise_after = _precision_of(before, truth), _precision_of(after, truth)
    losses = []
    for _ in range(count):
        weights = np.bincount(rng.integers(0, len(truth), len(truth)), minlength=len(truth)).astype(np.float64)
        losses.append(precise_before(weights) - precise_after(weights))
    return float(np.nanstd(losses))


def _precision_of(scores: Scores, truth: NDArray[np.bool_]) -> Callable[[Scores], float]:
    """Return what gives the average precision of rows with weights: they are sorted once for all."""
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    came = truth[order]

    def precision(weights: Scores) -> float:
        drawn = weights[order]
        found, told = np.cumsum(drawn * came)[ends], np.cumsum(drawn)[ends]
        if not found[-1]:
            return float("nan")
        gained = np.diff(found, prepend=0.0)
        return float((gained * found / np.maximum(told, 1.0)).sum() / found[-1])

    return precision
