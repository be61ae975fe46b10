"""The golden rows of a model: few rows that cover its scores and the ends of its inputs, with what they must score."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tailrace.inference.manifest import Golden
from tailrace.inference.packaged import GOLDEN_TOLERANCE, score_error
from tailrace.inference.signature import Signature
from tailrace.release.comparison import Comparison, missing_feeds, score_original
from tailrace.release.original import Original

ROWS_BY_SCORE: Final = 20
ROWS_WITH_NAN: Final = 8

Feeds = Mapping[str, NDArray[Any]]


def pick_golden(original: Original, chosen: Comparison, feeds: Feeds, scores: NDArray[Any]) -> Golden:
    """Return up to 32 golden rows with their scores.

    20 rows evenly from the lowest to the highest score; rows of every feature's minimum, maximum and median; rows with
    NaN. Made-up rows are kept only where the original gives the same finite score as the conversion does.
    """
    signature = chosen.converted.signature
    order = np.argsort(scores if scores.ndim == 1 else scores.max(axis=1), kind="stable")
    picked = order[np.unique(np.linspace(0, len(order) - 1, ROWS_BY_SCORE).astype(int))]
    real = {name: array[picked] for name, array in feeds.items()}
    spoiled = {name: array[-ROWS_WITH_NAN:] for name, array in missing_feeds(signature, feeds).items()}
    made_up = [_ends(signature, feeds), *([spoiled] if chosen.missing else [])]
    parts = [real, *(part for part in made_up if _agrees(original, chosen, part))]
    golden = {name: np.concatenate([part[name] for part in parts]) for name in feeds}
    expected = chosen.score(golden).astype(np.float64)
    return Golden(
        {name: _to_cells(array) for name, array in golden.items()}, expected.reshape(len(expected), -1).tolist()
    )


def _ends(signature: Signature, feeds: Feeds) -> dict[str, NDArray[Any]]:
    """Return three rows: every number's minimum, maximum and median; a text's first, last and middle."""
    ends: dict[str, NDArray[Any]] = {}
    for spec in signature.inputs:
        columns = []
        for column in feeds[spec.name].T:
            known = column[~np.isnan(column)] if spec.dtype.startswith("float") else column
            known = np.sort(known if len(known) else np.zeros(1, column.dtype))
            columns.append(known[[0, -1, len(known) // 2]])
        ends[spec.name] = np.ascontiguousarray(np.column_stack(columns), spec.numpy_dtype)
    return ends


def _agrees(original: Original, chosen: Comparison, feeds: Feeds) -> bool:
    """Return whether every row gets a finite score, and the original's."""
    if not len(next(iter(feeds.values()))):
        return False
    try:
        scores = chosen.score(feeds)
        expected = scores if original.score is None else score_original(original, chosen.converted.signature, feeds)
    except Exception:  # a made-up row that either side refuses is no golden row
        return False
    return bool(np.isfinite(scores).all() and score_error(scores, expected).max() <= GOLDEN_TOLERANCE)


def _to_cells(array: NDArray[Any]) -> list[list[Any]]:
    """Return rows of Python values, with None for NaN."""
    return [[None if value != value else value for value in row] for row in array.tolist()]  # noqa: PLR0124 - NaN
