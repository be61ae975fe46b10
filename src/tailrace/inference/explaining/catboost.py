"""CatBoost's own TreeSHAP, by its Python package, which only a pipeline that explains imports."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tailrace.inference.backends.native import Feeds, in_order, matrix_input, missing_library
from tailrace.inference.signature import Signature


class ExplainedTrees:
    """Trees that say what each feature adds."""

    def __init__(self, content: bytes, signature: Signature) -> None:
        try:
            import catboost
        except ImportError:
            missing_library("catboost", "catboost")
        self._name, self._dtype, self._width = matrix_input(signature)
        self._classes, self._columns = len(signature.classes), signature.scores_width
        self._pool = catboost.Pool
        try:
            self._model = catboost.CatBoost().load_model(blob=content, format="cbm")
        except catboost.CatBoostError as error:
            raise ValueError(f"CatBoost: {error}") from None
        if len(self._model.feature_names_) != self._width:
            raise ValueError(f"it takes {len(self._model.feature_names_)} features, the signature has {self._width}")

    def predict(self, feeds: Feeds) -> NDArray[Any]:
        """Return the scores, float64, (rows,) or (rows, classes)."""
        matrix = in_order(feeds[self._name], self._dtype, self._width)
        kind = "Probability" if self._classes else "RawFormulaVal"
        scores = np.asarray(self._model.predict(matrix, prediction_type=kind, thread_count=1))
        return scores[:, 1] if self._classes and self._columns == 1 else scores

    def contributions(self, feeds: Feeds) -> NDArray[np.float64]:
        """Return what each feature adds to the raw score, then the base."""
        matrix = in_order(feeds[self._name], self._dtype, self._width)
        found = self._model.get_feature_importance(self._pool(matrix), type="ShapValues", thread_count=1)
        return np.asarray(found, np.float64)


def open_trees(content: bytes, signature: Signature) -> Any:
    """Return the trees of a .cbm file. Raises OSError without the library, ValueError."""
    return ExplainedTrees(content, signature)
