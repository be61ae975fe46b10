"""The golden rows of a model: few rows that cover its scores and the ends of its inputs, with what they must score."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tailrace.errors import ModelPackageError
from tailrace.inference.manifest import Golden
from tailrace.release.comparison import Comparison, differs, find_finite, measure_distances
from tailrace.release.original import Original
from tailrace.release.rows import Rows
from tailrace.release.unseen import unseen_rows

ROWS_BY_SCORE: Final = 20
ROWS_WITH_NAN: Final = 8
UNSEEN_MAX: Final = 8
"""Rows of categories that training had not seen."""


def pick_golden(original: Original, chosen: Comparison, rows: Rows, scores: NDArray[Any]) -> tuple[Golden, int]:
    """Return up to 40 golden rows with their scores, and how many rows of the data were left out of them.

    rows: such as get a score in serving, with their `scores`.
    20 rows evenly from the lowest to the highest score; rows of every feature's minimum, maximum and median; rows with
    NaN; rows of categories that training had not seen. A row is left out that has no finite score, or that the original
    scores otherwise since float32 moves it or ONNX reads its text otherwise. Made-up rows are left out where the
    original refuses one of them too.
    Raises ModelPackageError where the conversion scores a row of the data otherwise than the original, or none is left.
    """
    inputs = chosen.signature.inputs
    if not len(scores):
        raise ModelPackageError(
            "the model scores no row of the data with a number", where="data",
            next="look at what it gives for them: a logarithm of zero, a division, an input out of its range",
        )  # fmt: skip
    order = np.argsort(scores if scores.ndim == 1 else scores.max(axis=1), kind="stable")
    picked = rows.take(order[np.unique(np.linspace(0, len(order) - 1, ROWS_BY_SCORE).astype(int))])
    held = _hold(original, chosen, picked)
    filled = tuple(spec for spec in inputs if spec.name not in chosen.unfilled)
    spoiled = rows.with_value(filled, np.nan)
    spoiled = spoiled.take(np.arange(len(spoiled))[-ROWS_WITH_NAN:])
    made_up = [rows.ends(), spoiled, *(row for _, row in unseen_rows(original, rows)[:UNSEEN_MAX])]
    parts = [
        part.feeds(inputs) for part in (held, *(_hold_made_up(original, chosen, part) for part in made_up)) if part
    ]
    if not parts or not any(map(len, (part[inputs[0].name] for part in parts))):
        raise ModelPackageError(
            "no row of the data is left to check the model by where it is loaded: each is scored otherwise in float32, "
            "or its text is",
            where="data",
            next="give more rows, or leave the feature out that float32 or ONNX does not hold, and train again",
        )
    golden = {spec.name: np.concatenate([part[spec.name] for part in parts]) for spec in inputs}
    expected = chosen.score_raw(golden).astype(np.float64)
    cells = {name: _to_cells(array) for name, array in golden.items()}
    return Golden(cells, expected.reshape(len(expected), -1).tolist()), len(picked) - len(held)


def _hold(original: Original, chosen: Comparison, rows: Rows) -> Rows:
    """Return the rows that get a finite score, and the original's. Raises ModelPackageError for a wrong score."""
    if original.score is None:
        scores = chosen.score(rows.feeds(chosen.signature.inputs))
        return rows.take(np.flatnonzero(find_finite(scores)))
    distances = measure_distances(original, chosen, rows)
    if len(distances.wrong):
        raise differs(rows, distances, original.nulls)
    held = find_finite(distances.scores)
    held[distances.rounded] = held[distances.text] = False
    return rows.take(np.flatnonzero(held))


def _hold_made_up(original: Original, chosen: Comparison, rows: Rows) -> Rows | None:
    """Return those of the made-up rows that hold; None where either side refuses one or scores it otherwise."""
    try:
        return _hold(original, chosen, rows) if len(rows) else None
    except Exception:  # each library raises its own
        return None


def _to_cells(array: NDArray[Any]) -> list[list[Any]]:
    """Return rows of Python values, with None for NaN."""
    return [[None if value != value else value for value in row] for row in array.tolist()]  # noqa: PLR0124 - NaN
