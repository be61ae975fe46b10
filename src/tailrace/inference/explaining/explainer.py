"""What explains a model: the file that its own library wrote, kept beside the form that is served.

What a tree ensemble says of a row is a sum: a base, and what each feature adds to it or takes from it (Shapley values;
TreeSHAP: Lundberg et al., "Consistent individualized feature attribution for tree ensembles", 2018). It is a sum of log
odds for a classifier of two classes: what stands before the link.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from tailrace.errors import ModelPackageError
from tailrace.inference.manifest import (
    CATBOOST_FILE,
    EXPLAIN_CATBOOST,
    EXPLAIN_LIGHTGBM,
    EXPLAIN_XGBOOST,
    LIGHTGBM_FILE,
    REPACKAGE,
    XGBOOST_FILE,
    Manifest,
)
from tailrace.inference.model_directory import read_in_parts
from tailrace.inference.packaged import PackagedModel, score_error
from tailrace.inference.predictor import Feeds
from tailrace.inference.signature import Signature

TOLERANCE: Final = 1e-4
"""How far a golden row's score may be from what the library says of the row: it may compute in float64."""


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
    EXPLAIN_CATBOOST: "catboost", CATBOOST_FILE: "catboost",
}  # fmt: skip


def load_explainer(model: PackagedModel, directory: Path) -> Trees | str:
    """Return what explains a packaged model, or why it cannot be explained.

    Raises ModelPackageError for a file that is not what it should be: one that scores the golden rows otherwise, or
    explains none.
    """
    file = next((name for name in _KINDS if name in model.manifest.files), None)
    if file is None:
        return _why_none(model.manifest)
    opens: Callable[[bytes, Signature], Trees] = import_module(
        f"tailrace.inference.explaining.{_KINDS[file]}"
    ).open_trees
    path = directory / file
    try:
        trees = opens(read_in_parts(path), model.signature)
    except OSError as error:
        return str(error)
    except ValueError as error:
        raise ModelPackageError(
            f"the file is not what it should be: {error}", where=str(path), next=REPACKAGE
        ) from None
    if problem := _golden_problem(model, trees):
        raise ModelPackageError(problem, where=str(path), next=REPACKAGE)
    return trees


def _why_none(manifest: Manifest) -> str:
    """Return why a model directory has nothing that explains."""
    if manifest.source.framework not in _KINDS.values():
        framework = manifest.source.framework
        return f"trees of LightGBM, XGBoost and CatBoost can be explained, this is a model of {framework}"
    why = "it was packaged without --explain"
    if manifest.optimised is None:
        return why
    return f"{why}, or its trees were changed by `tailrace optimize`: {manifest.optimised.recipe}"


def _golden_problem(model: PackagedModel, trees: Trees) -> str:
    """Return why the trees do not explain what is served, which golden rows show; nothing where they do.

    A golden score is what stands behind the trees' link, or before it, where a calibration takes that.
    """
    golden, signature = model.manifest.golden, model.signature
    expected = np.array(golden.scores, np.float64)
    feeds = golden.feeds(signature)
    try:
        found = np.asarray(trees.predict(feeds), np.float64)
        added = np.asarray(trees.contributions(feeds), np.float64)
    except Exception as error:  # of a library
        return f"the golden rows cannot be explained: {type(error).__name__}: {str(error)[:300]}"
    columns = (len(expected), *expected.shape[1:]) if expected.shape[1] > 1 else (len(expected),)
    if added.shape != (*columns, len(signature.feature_names) + 1):
        return f"it explains the golden rows by numbers of shape {added.shape}"
    both = (each.reshape(expected.shape) for each in (found, added.sum(axis=-1)))
    if (worst := min(float(score_error(each, expected).max()) for each in both)) > TOLERANCE + golden.rounding:
        return f"it scores a golden row by {worst:.2g} otherwise: it explains another model"
    return ""
