"""What explains a model: the file that its own library wrote, kept beside the form that is served.

What a tree ensemble says of a row is a sum: a base, and what each feature adds to it or takes from it (Shapley values;
TreeSHAP: Lundberg et al., "Consistent individualized feature attribution for tree ensembles", 2018). It is a sum of log
odds for a classifier of two classes: what stands before the link.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from tailrace.errors import ModelPackageError
from tailrace.inference.manifest import LIGHTGBM_FILE, REPACKAGE, XGBOOST_FILE
from tailrace.inference.packaged import PackagedModel, score_error
from tailrace.inference.signature import Signature

EXPLAIN_LIGHTGBM: Final = "explain.lightgbm.txt"
EXPLAIN_XGBOOST: Final = "explain.ubj"
EXPLAIN_CATBOOST: Final = "explain.cbm"
TOLERANCE: Final = 1e-4
"""How far a golden row's score may be from what the library says of the row: it may compute in float64."""

Feeds = Mapping[str, NDArray[Any]]


class Trees(Protocol):
    """A model in its library's hands."""

    def predict(self, feeds: Feeds) -> NDArray[Any]:
        """Return the scores, (rows,) or (rows, classes)."""
        ...

    def contributions(self, feeds: Feeds) -> NDArray[np.float64]:
        """Return what each feature adds to the raw score, and at the end the base: (rows, features + 1).

        Of several classes (rows, classes, features + 1).
        """
        ...


_KINDS: Final = {
    EXPLAIN_LIGHTGBM: "lightgbm", LIGHTGBM_FILE: "lightgbm",
    EXPLAIN_XGBOOST: "xgboost", XGBOOST_FILE: "xgboost",
    EXPLAIN_CATBOOST: "catboost",
}  # fmt: skip


def load_explainer(model: PackagedModel, directory: Path) -> Trees | str:
    """Return what explains a packaged model, or why it cannot be explained.

    Raises ModelPackageError for a file that is not what it should be: one that scores the golden rows otherwise.
    """
    file = next((name for name in _KINDS if name in model.manifest.files), None)
    if file is None:
        framework = model.manifest.source.framework
        if framework in _KINDS.values():
            return "it was packaged without --explain"
        return f"trees of LightGBM, XGBoost and CatBoost can be explained, this is a model of {framework}"
    opens: Callable[[bytes, Signature], Trees] = import_module(
        f"tailrace.inference.explaining.{_KINDS[file]}"
    ).open_trees
    path = directory / file
    try:
        trees = opens(path.read_bytes(), model.signature)
    except OSError as error:
        return str(error)
    except ValueError as error:
        raise ModelPackageError(
            f"the file is not what it should be: {error}", where=str(path), next=REPACKAGE
        ) from None
    _check_golden(model, trees, path)
    return trees


def _check_golden(model: PackagedModel, trees: Trees, path: Path) -> None:
    """Raise ModelPackageError where the trees are not those that are served, which golden scores show."""
    golden = model.manifest.golden
    expected = np.array(golden.scores, np.float64)
    found = np.asarray(trees.predict(golden.feeds(model.signature)), np.float64).reshape(expected.shape)
    if (worst := float(score_error(found, expected).max())) > TOLERANCE + golden.rounding:
        what = f"it scores a golden row by {worst:.2g} otherwise: it explains another model"
        raise ModelPackageError(what, where=str(path), next=REPACKAGE)
