"""How good a model's scores are against the known outcomes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tailrace.errors import ModelPackageError


def measure_quality(
    scores: NDArray[Any], target: NDArray[Any], classes: tuple[int | str, ...]
) -> dict[str, float | int | str]:
    """Return the metrics of scores, (rows,) or (rows, classes), against the outcomes, (rows,).

    Two classes: roc_auc, average_precision, log_loss, accuracy at 0.5; more: log_loss, accuracy; none: rmse, mae.
    Raises ModelPackageError for an outcome that is null or not one of the classes.
    """
    scores = np.asarray(scores, np.float64)
    if not classes:
        errors = scores - np.asarray(target, np.float64)
        if np.isnan(errors).any():
            raise _bad_target("it holds nulls")
        return {"rows": len(errors), "rmse": float(np.sqrt(np.mean(errors**2))), "mae": float(np.abs(errors).mean())}
    truth = find_truth(target, classes)
    if len(classes) == 2:
        return _measure_binary(scores, truth)
    picked = np.clip(scores[np.arange(len(truth)), truth], 1e-15, 1.0)
    accuracy = float((scores.argmax(axis=1) == truth).mean())
    return {"rows": len(truth), "log_loss": float(-np.log(picked).mean()), "accuracy": accuracy}


def find_truth(target: NDArray[Any], classes: tuple[int | str, ...]) -> NDArray[np.intp]:
    """Return the place of each outcome among the classes. Raises ModelPackageError for one that is none of them."""
    index = {label: position for position, label in enumerate(classes)} | {
        str(label): position for position, label in enumerate(classes)
    }
    try:
        return np.array([index[value] for value in target.tolist()])
    except KeyError as error:
        raise _bad_target(f"it holds {error.args[0]!r}, which is none of the classes {list(classes)}") from None


def _measure_binary(scores: NDArray[np.float64], truth: NDArray[Any]) -> dict[str, float | int | str]:
    from sklearn.metrics import average_precision_score, roc_auc_score

    found: dict[str, float | int | str] = {"rows": len(truth), "positives": int(truth.sum())}
    if 0 < truth.sum() < len(truth):
        found["roc_auc"] = float(roc_auc_score(truth, scores))
        found["average_precision"] = float(average_precision_score(truth, scores))
    safe = np.clip(scores, 1e-15, 1 - 1e-15)
    found["log_loss"] = float(-np.where(truth == 1, np.log(safe), np.log1p(-safe)).mean())
    found["accuracy"] = float(((scores >= 0.5) == truth).mean())
    return found


def _bad_target(what: str) -> ModelPackageError:
    return ModelPackageError(
        f"the target column does not fit the model: {what}",
        where="target",
        next="name the column that holds the outcomes the model was trained on",
    )
