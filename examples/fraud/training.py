"""The model of the fraud example: its inputs computed by the pipeline's own declaration, then LightGBM."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from tailrace.offline.dataset import METADATA

if TYPE_CHECKING:
    import lightgbm
    import pyarrow as pa

TARGET: Final = "is_fraud"
TREES: Final = 200
PARAMETERS: Final = {
    "objective": "binary",
    "num_leaves": 31,
    "learning_rate": 0.05,
    "min_child_samples": 100,
    "num_threads": 2,
    "seed": 7,
    "deterministic": True,
    "force_row_wise": True,
    "verbose": -1,
}


def feature_columns(rows: pa.Table) -> dict[str, NDArray[Any]]:
    """Return the model's inputs by canonical name, in the pipeline's order, each of shape (rows,).

    rows: a training set, as `tr.dataset` makes it.
    """
    names = json.loads(rows.schema.metadata[METADATA])["features"]
    return {name: rows[name].to_numpy() for name in names}


def to_matrix(columns: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
    """Return the columns side by side, shape (rows, features)."""
    return np.column_stack(list(columns.values())).astype(np.float32)


def train(columns: dict[str, NDArray[Any]], target: NDArray[Any]) -> lightgbm.Booster:
    """Return a LightGBM of 200 trees; the same rows give the same model."""
    import lightgbm

    data = lightgbm.Dataset(to_matrix(columns), target, feature_name=list(columns))
    return lightgbm.train(PARAMETERS, data, TREES)
