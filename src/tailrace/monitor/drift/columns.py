"""From predictions to the columns that drift is told of."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tailrace.batch import Provenance
from tailrace.monitor.predictions import Predictions


def columns_of(predictions: Predictions) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[np.bool_]]]:
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
