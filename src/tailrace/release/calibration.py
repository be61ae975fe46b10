"""A calibration taken from scikit-learn, or fitted when the model is packaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tailrace.errors import ModelPackageError
from tailrace.inference.calibration import Calibration, Isotonic, Platt, log_odds

METHODS: Final = ("isotonic", "platt")
"""What can be fitted when a model is packaged."""
_UNBOUNDED: Final = 1e12
"""The inverse of the weight of the penalty: none."""


def fit_calibration(method: str, scores: NDArray[Any], truth: NDArray[np.bool_]) -> Calibration:
    """Return the calibration of a model's probabilities, (rows,), by what came true.

    Platt's curve is one of the log odds, so that it may leave good probabilities as they are.
    Raises ModelPackageError where one class alone came.
    """
    from sklearn.isotonic import IsotonicRegression
    from sklearn.linear_model import LogisticRegression

    if truth.all() or not truth.any():
        raise ModelPackageError(
            "the outcomes are all of one class, by which nothing can be calibrated",
            where="target",
            next="give held-back rows of both classes",
        )
    values = scores.astype(np.float64)
    if method == "isotonic":
        return read_fitted(IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(values, truth))
    odds = log_odds(values)[:, np.newaxis]
    found = LogisticRegression(C=_UNBOUNDED, max_iter=1_000).fit(odds, truth)
    return Platt(-float(found.coef_[0, 0]), -float(found.intercept_[0]), log_odds=True)


def cross_calibrate(method: str, scores: NDArray[Any], truth: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return each row's probability by a calibration that was fitted without it: on the rows of the other half.

    The halves are drawn, with as many rows of each outcome: data often stands in an order.
    Raises ModelPackageError where an outcome has one row or none.
    """
    fewest = int(min(truth.sum(), (~truth).sum()))
    if fewest == 1:
        raise ModelPackageError(
            "one of the outcomes came once; a calibration is fitted on one half of the rows and judged on the other",
            where="target",
            next="give held-back rows with two at least of each outcome",
        )
    rng = np.random.default_rng(0)
    first = np.zeros(len(scores), np.bool_)
    for places in (np.flatnonzero(truth), np.flatnonzero(~truth)):
        first[rng.permutation(places)[::2]] = True
    calibrated = np.empty(len(scores), np.float64)
    for half in (first, ~first):
        calibrated[half] = fit_calibration(method, scores[~half], truth[~half]).apply(scores[half])
    return calibrated


def read_fitted(calibrator: Any) -> Calibration:
    """Return the calibration in a fitted IsotonicRegression or LogisticRegression, or in the path of one.

    Raises ModelPackageError for anything else, or one of several inputs.
    """
    where = type(calibrator).__name__
    if isinstance(calibrator, str | Path):
        if not Path(calibrator).suffix:
            raise ModelPackageError(
                f"there is no such calibration as {str(calibrator)!r}", where="calibrate", next=_FIT
            )
        where, calibrator = str(calibrator), _load(Path(calibrator))
    try:
        if hasattr(calibrator, "X_thresholds_"):
            return _read_isotonic(calibrator, where)
        if hasattr(calibrator, "a_"):  # scikit-learn's own curve inside a CalibratedClassifierCV
            return Platt(float(calibrator.a_), float(calibrator.b_))
        if hasattr(calibrator, "coef_") and np.size(calibrator.coef_) == 1:
            return Platt(-float(np.ravel(calibrator.coef_)[0]), -float(np.ravel(calibrator.intercept_)[0]))
    except ValueError as error:
        raise ModelPackageError(f"it is no calibration: {error}", where=where, next=_FIT) from error
    raise ModelPackageError("it is no calibration of one score", where=where, next=_FIT)


_FIT: Final = (
    "give isotonic or platt, or a fitted IsotonicRegression(out_of_bounds='clip') or LogisticRegression of the model's "
    "score as the one input"
)


def _read_isotonic(calibrator: Any, where: str) -> Isotonic:
    if calibrator.out_of_bounds != "clip":
        raise ModelPackageError(
            f"the isotonic calibration has no value for a score beyond those that it was fitted on: out_of_bounds is "
            f"{calibrator.out_of_bounds!r}",
            where=where,
            next="fit it with out_of_bounds='clip'",
        )
    x, y = np.asarray(calibrator.X_thresholds_, np.float64), np.asarray(calibrator.y_thresholds_, np.float64)
    return Isotonic(tuple(x.tolist()), tuple(y.tolist()))


def _load(path: Path) -> Any:
    """Return the object in a pickle, which the user names and so trusts."""
    if not path.is_file():
        raise ModelPackageError("there is no such calibration", where=str(path), next=_FIT)
    try:
        import joblib

        return joblib.load(path)
    except Exception as error:  # pickles raise anything
        raise ModelPackageError(f"the calibration cannot be read: {error}", where=str(path), next=_FIT) from error
