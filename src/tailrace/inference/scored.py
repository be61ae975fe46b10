"""What a stage says of rows: their scores, why some are degraded, which have none; taken apart and put together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tailrace.batch import Degraded
from tailrace.inference.declaration import Constant

_MODEL_ERROR: Final = int(Degraded.MODEL_ERROR)
_MODEL_TIMEOUT: Final = int(Degraded.MODEL_TIMEOUT)


class Scored(NamedTuple):
    """A batch's scores.

    scores: float, (rows,) or (rows, classes); NaN in the rows that failed.
    degraded: uint8 `Degraded` bits, (rows,); None when every row has the model's own score.
    failed: bool, (rows,): the rows that have no score at all; None when there are none.
    """

    scores: NDArray[Any]
    degraded: NDArray[np.uint8] | None = None
    failed: NDArray[np.bool_] | None = None

    def part(self, start: int, end: int) -> Scored:
        """Return the scores of some rows."""
        if start == 0 and end == len(self.scores):
            return self
        degraded, failed = self.degraded, self.failed
        return Scored(
            self.scores[start:end],
            None if degraded is None or not degraded[start:end].any() else degraded[start:end],
            None if failed is None or not failed[start:end].any() else failed[start:end],
        )


class Gaps:
    """Scores of which some are missing, and what takes their place.

    bad: the rows without one. late: those of them for which there was no time; None for none, they failed.
    """

    def __init__(self, scores: NDArray[Any], bad: NDArray[np.bool_], late: NDArray[np.bool_] | None) -> None:
        reason = np.where(late, _MODEL_TIMEOUT, _MODEL_ERROR) if late is not None else _MODEL_ERROR
        self._bad = bad
        self._degraded = np.where(bad, reason, 0).astype(np.uint8)
        self._scores = scores.astype(np.float64)  # a copy, in which a constant stands as it was declared
        self._scores[bad] = np.nan

    def filled_by(self, fallback: Constant | Scored | None) -> Scored:
        """Return them whole: by a constant, or by another model's scores of the bad rows; by None these have failed."""
        scores, bad = self._scores, self._bad
        if fallback is None:
            return Scored(scores, self._degraded, bad)
        if isinstance(fallback, Constant):
            scores[bad] = fallback.value  # one, or a row of one a class
            return Scored(scores, self._degraded)
        scores[bad] = fallback.scores
        if fallback.failed is None:
            return Scored(scores, self._degraded)
        failed = np.zeros(len(bad), bool)
        failed[bad] = fallback.failed
        return Scored(scores, self._degraded, failed)


def has_scores(scores: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which rows have a score, (rows,): one that is finite in every class."""
    finite = np.isfinite(scores)
    found: NDArray[np.bool_] = finite if finite.ndim == 1 else finite.all(axis=1)
    return found


def joined(parts: Sequence[Scored]) -> Scored:
    """Return the scores of several parts, one after the other."""
    if len(parts) == 1:
        return parts[0]
    degraded = failed = None
    if any(part.degraded is not None for part in parts):
        blanks = (np.zeros(len(part.scores), np.uint8) if part.degraded is None else part.degraded for part in parts)
        degraded = np.concatenate(list(blanks))
    if any(part.failed is not None for part in parts):
        nones = (np.zeros(len(part.scores), np.bool_) if part.failed is None else part.failed for part in parts)
        failed = np.concatenate(list(nones))
    return Scored(np.concatenate([part.scores for part in parts]), degraded, failed)


def gathered(rows: int, places: Sequence[NDArray[np.intp]], parts: Sequence[Scored]) -> Scored:
    """Return the scores of several parts of the rows together, each where its rows are."""
    scores: NDArray[Any] = np.empty((rows, *parts[0].scores.shape[1:]))
    failed: NDArray[np.bool_] | None = None
    for where, part in zip(places, parts, strict=True):
        scores[where] = part.scores
        if part.failed is not None:
            failed = np.zeros(rows, np.bool_) if failed is None else failed
            failed[where] = part.failed
    degraded = degraded_or_none(rows, [(where, part.degraded) for where, part in zip(places, parts, strict=True)])
    return Scored(scores, degraded, failed)


def degraded_or_none(rows: int, parts: Sequence[tuple[Any, NDArray[np.uint8] | None]]) -> NDArray[np.uint8] | None:
    """Return the reasons of all parts together, (rows,): each is where its rows are, and theirs; None for none."""
    found: NDArray[np.uint8] | None = None
    for where, reasons in parts:
        if reasons is not None:
            found = np.zeros(rows, np.uint8) if found is None else found
            found[where] |= reasons
    return found
