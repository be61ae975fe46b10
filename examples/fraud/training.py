"""The model of the fraud example: its inputs computed by the pipeline's own declaration, then LightGBM."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from tailrace.features.on_demand import OnDemandView
from tailrace.pipeline import Pipeline

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


def feature_columns(pipeline: Pipeline, rows: pa.Table) -> dict[str, NDArray[Any]]:
    """Return the model's inputs by canonical name, in the pipeline's order, each of shape (rows,).

    rows: with a column for each field of the request, and one named `View.column` for each column of the views. The
    on-demand features are the same functions that serve.
    """
    request = SimpleNamespace(**{name: rows[name].to_numpy() for name in pipeline.request.__struct_fields__})
    views = {
        view: SimpleNamespace(
            **{
                column.name: rows[f"{view.__name__}.{column.name}"].to_numpy().astype(column.dtype)
                for column in view.spec.columns
            }
        )
        for view in pipeline.views
    }
    columns: dict[str, NDArray[Any]] = {}
    for feature in pipeline.features:
        if isinstance(feature, OnDemandView):
            taken = [views.get(kind, request) for kind in feature.parameters.values()]
            columns[feature.name] = feature(*taken)
        elif feature in views:
            columns |= {f"{feature.__name__}.{name}": values for name, values in vars(views[feature]).items()}
        else:
            columns[feature.__name__] = getattr(request, feature.__name__)
    return columns


def to_matrix(columns: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
    """Return the columns side by side, shape (rows, features)."""
    return np.column_stack(list(columns.values())).astype(np.float32)


def train(columns: dict[str, NDArray[Any]], target: NDArray[Any]) -> lightgbm.Booster:
    """Return a LightGBM of 200 trees; the same rows give the same model."""
    import lightgbm

    data = lightgbm.Dataset(to_matrix(columns), target, feature_name=list(columns))
    return lightgbm.train(PARAMETERS, data, TREES)
