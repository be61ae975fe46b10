"""The golden rows of a model: few rows that cover its scores and the ends of its inputs, with what they must score."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tailrace.inference.manifest import Golden
from tailrace.release.comparison import Comparison, measure_distances
from tailrace.release.original import Original
from tailrace.release.rows import Rows

ROWS_BY_SCORE: Final = 20
ROWS_WITH_NAN: Final = 8


def pick_golden(original: Original, chosen: Comparison, rows: Rows, scores: NDArray[Any]) -> Golden:
    """Return up to 32 golden rows with their scores.

    rows: such as get a score in serving, with their `scores`.
    20 rows evenly from the lowest to the highest score; rows of every feature's minimum, maximum and median; rows with
    NaN. Made-up rows are kept only where the original gives the same finite score as the conversion does.
    """
    inputs = chosen.signature.inputs
    order = np.argsort(scores if scores.ndim == 1 else scores.max(axis=1), kind="stable")
    picked = order[np.unique(np.linspace(0, len(order) - 1, ROWS_BY_SCORE).astype(int))]
    filled = tuple(spec for spec in inputs if spec.name not in chosen.unfilled)
    spoiled = rows.with_value(filled, np.nan)
    spoiled = spoiled.take(np.arange(len(spoiled))[-ROWS_WITH_NAN:])
    made_up = [rows.ends(), spoiled]
    kept = [rows.take(picked), *(part for part in made_up if _agrees(original, chosen, part))]
    parts = [part.feeds(inputs) for part in kept]
    golden = {spec.name: np.concatenate([part[spec.name] for part in parts]) for spec in inputs}
    expected = chosen.score_raw(golden).astype(np.float64)
    return Golden(
        {name: _to_cells(array) for name, array in golden.items()}, expected.reshape(len(expected), -1).tolist()
    )


def _agrees(original: Original, chosen: Comparison, rows: Rows) -> bool:
    """Return whether every row gets a finite score, and the original's."""
    if not len(rows):
        return False
    try:
        if original.score is not None:
            distances = measure_distances(original, chosen, rows)
            return not len(distances.wrong) and bool(np.isfinite(distances.scores).all())
        return bool(np.isfinite(chosen.score(rows.feeds(chosen.signature.inputs))).all())
    except Exception:  # a made-up row that either side refuses is no golden row
        return False


def _to_cells(array: NDArray[Any]) -> list[list[Any]]:
    """Return rows of Python values, with None for NaN."""
    return [[None if value != value else value for value in row] for row in array.tolist()]  # noqa: PLR0124 - NaN
