"""What float32 does to a model's scores: whether it is why a row's score differs, and which features it loses."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tailrace.errors import ModelPackageError
from tailrace.inference.packaged import GOLDEN_TOLERANCE, score_error
from tailrace.release.original import Original
from tailrace.release.rows import Rows, Specs, to_float32

STEPS: Final = (0, -1, 1, -2, 2, -4, 4)
"""How many float32 a value may be off."""
ROWS_EXPLAINED_MAX: Final = 1_000
FEATURES_TOLD_MAX: Final = 3


def is_rounding(original: Original, rows: Rows, specs: Specs) -> NDArray[np.bool_]:
    """Return for which rows the original itself gives another score once their values are rounded to float32.

    To the nearest or one close to it, since the splits and the steps of a pipeline before them are rounded as well.
    """
    expected = original.score_rows(rows)
    moved = np.zeros(len(rows), np.bool_)
    for steps in STEPS:
        moved |= _is_apart(original.score_rows(rows.rounded(specs, steps)), expected)
    return moved


def explain_rounding(original: Original, rows: Rows, specs: Specs, rows_compared: int) -> ModelPackageError:
    """Return the refusal of a model whose scores float32 changes for too many rows: the features that it loses."""
    what = f"float32, in which a model is served, changes the scores of {len(rows)} of {rows_compared} rows"
    losses = _measure_losses(original, rows.take(np.arange(min(len(rows), ROWS_EXPLAINED_MAX))), specs)
    if not losses:
        return ModelPackageError(
            f"{what}, though it holds each feature well enough: a step before the splits is computed in it too",
            where="model",
            next="leave scaling out in front of trees, which do without, and train again",
        )
    told = "; ".join(
        f"{name} is rounded by up to {step:.3g}, which alone changes {share:.0%} of them"
        for share, step, name in losses[:FEATURES_TOLD_MAX]
        if share >= losses[0][0] / 10
    )
    return ModelPackageError(
        f"{what}: {told}",
        where=f"data.{losses[0][2]}",
        next="train on smaller numbers and serve these: a difference (seconds since the last payment), a distance from "
        "a fixed start, a coarser unit; or train on columns of float32, if its steps are fine enough",
    )


def _measure_losses(original: Original, rows: Rows, specs: Specs) -> list[tuple[float, float, str]]:
    """Return the features that change scores when they alone are rounded: the share, by how much at most, the name."""
    expected = original.score_rows(rows)
    losses = []
    for name in (name for spec in specs if spec.dtype == "float32" for name in spec.features):
        column = rows.columns[name].astype(np.float64)
        near = to_float32(column).astype(np.float64)
        if not np.array_equal(near, column, equal_nan=True):
            changed = _is_apart(original.score_rows(Rows({**rows.columns, name: near})), expected)
            losses.append((float(changed.mean()), float(np.nanmax(np.abs(near - column))), name))
    return sorted((loss for loss in losses if loss[0]), reverse=True)


def _is_apart(scores: NDArray[Any], expected: NDArray[Any]) -> NDArray[np.bool_]:
    errors = score_error(scores, expected)
    return np.asarray(errors.reshape(len(errors), -1).max(axis=1) > GOLDEN_TOLERANCE)
