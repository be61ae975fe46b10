"""CatBoost's own TreeSHAP, by its Python package, which only a pipeline that explains imports."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tailrace.inference.backends.catboost import load_trees, rows_of, score_kind
from tailrace.inference.predictor import Feeds
from tailrace.inference.signature import Signature


class ExplainedTrees:
    """Trees that say what each feature adds."""

    def __init__(self, content: bytes, signature: Signature) -> None:
        self._model, self._signature = load_trees(content), signature
        import catboost

        self._pool = catboost.Pool
        self._kind = score_kind(self._model)
        self._texts = {
            "cat_features": self._model.get_cat_feature_indices() or None,
            "text_features": self._model.get_text_feature_indices() or None,
        }
        width = len(signature.feature_names)
        if len(self._model.feature_names_) != width:
            raise ValueError(f"it takes {len(self._model.feature_names_)} features, the signature has {width}")

    def predict(self, feeds: Feeds) -> NDArray[Any]:
        """Return the scores, float64, (rows,) or (rows, classes)."""
        rows = rows_of(feeds, self._signature)
        scores = np.asarray(self._model.predict(rows, prediction_type=self._kind, thread_count=1))
        return scores[:, 1] if self._signature.classes and self._signature.scores_width == 1 else scores

    def contributions(self, feeds: Feeds) -> NDArray[np.float64]:
        """Return what each feature adds to the raw score, then the base."""
        rows = self._pool(rows_of(feeds, self._signature), **self._texts)
        found = self._model.get_feature_importance(rows, type="ShapValues", thread_count=1)
        return np.asarray(found, np.float64)


def open_trees(content: bytes, signature: Signature) -> Any:
    """Return the trees of a .cbm file. Raises OSError without the library, ValueError."""
    return ExplainedTrees(content, signature)
