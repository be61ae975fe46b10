"""From predictions to the columns that drift is told of."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tailrace.batch import Provenance
from tailrace.monitor.predictions import Predictions

Columns = dict[str, NDArray[Any]]
Flags = dict[str, NDArray[np.bool_]]


class Gathered:
    """Columns of several frames, until they are worth a look. since_ns: when the first came, or the last were taken."""

    def __init__(self, since_ns: int = 0) -> None:
        self.since_ns = since_ns
        self.rows = self.requests = 0
        self._columns: list[Columns] = []
        self._defaulted: list[Flags] = []

    def add(self, columns: Columns, defaulted: Flags, requests: int) -> None:
        """Add a frame's, see `columns_of`. requests: that its rows are of."""
        self.rows += max(map(len, columns.values()), default=0)
        self.requests += requests
        self._columns.append(columns)
        self._defaulted.append(defaulted)

    def take(self, now_ns: int) -> tuple[Columns, Flags, int]:
        """Return all of them together, and begin anew."""
        found = _joined(self._columns), _joined(self._defaulted), self.requests
        self.since_ns, self.rows, self.requests, self._columns, self._defaulted = now_ns, 0, 0, [], []
        return found


def _joined(frames: list[dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """Return the columns of all frames, one behind the other."""
    names = dict.fromkeys(name for frame in frames for name in frame)
    return {name: np.concatenate([frame[name] for frame in frames if name in frame]) for name in names}


def columns_of(predictions: Predictions) -> tuple[Columns, Flags]:
    """Return the values of each series by its name, and which rows were answered with a default by view.

    Of vectors they are the norms. Rows without a score have features and views alone. A feature that is called as a
    score or the decision is left aside.
    """
    columns = {name: _flat(values) for name, values in predictions.features.items()}
    scored = ~predictions.failed
    scores = predictions.scores[scored]
    if scores.ndim == 1:
        columns["score"], columns["confidence"] = scores, np.maximum(scores, 1.0 - scores)
    elif scores.shape[1:]:
        columns |= {f"score[{place}]": scores[:, place] for place in range(scores.shape[1])}
        columns |= {"score": _flat(scores), "confidence": scores.max(axis=1, initial=-np.inf)}
    if predictions.decisions is not None:
        columns["decision"] = predictions.decisions[scored]
    defaulted = {
        name: np.asarray((noted == Provenance.DEFAULT) | (noted == Provenance.TIMEOUT))
        for name, noted in predictions.provenance.items()
    }
    return columns, defaulted


def _flat(values: NDArray[Any]) -> NDArray[Any]:
    """Return a column, or the Euclidean norms of the rows of a matrix."""
    return values if values.ndim == 1 else np.asarray(np.linalg.norm(values.astype(np.float64), axis=1))
