"""The file that a model is explained by: what its own library wrote, beside whichever form is served."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final

from tailrace.errors import ModelPackageError
from tailrace.inference.explaining.explainer import load_explainer
from tailrace.inference.manifest import (
    CATBOOST_FILE,
    EXPLAIN_CATBOOST,
    EXPLAIN_LIGHTGBM,
    EXPLAIN_XGBOOST,
    LIGHTGBM_FILE,
    XGBOOST_FILE,
)
from tailrace.inference.packaged import PackagedModel
from tailrace.release.original import Original

_NEXT: Final = "package it without --explain"


def explain_file(original: Original) -> dict[str, bytes]:
    """Return the file, by its name. Raises ModelPackageError for a model that has none."""
    match original.framework:
        case "lightgbm":
            return {EXPLAIN_LIGHTGBM: original.model.model_to_string().encode()}
        case "xgboost":
            return {EXPLAIN_XGBOOST: bytes(original.model.save_raw("ubj"))}
        case "catboost":
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / EXPLAIN_CATBOOST
                original.model.save_model(str(path))
                return {EXPLAIN_CATBOOST: path.read_bytes()}
    raise ModelPackageError(
        f"trees of LightGBM, XGBoost and CatBoost can be explained, this is a {original.model_type} of "
        f"{original.framework}",
        where="model", next=_NEXT,
    )  # fmt: skip


def with_explain_file(original: Original, files: dict[str, bytes]) -> dict[str, bytes]:
    """Return the files of a directory with the one that explains; a library's own form is that already."""
    return files if {LIGHTGBM_FILE, XGBOOST_FILE, CATBOOST_FILE} & files.keys() else files | explain_file(original)


def check_explained(model: PackagedModel, directory: Path) -> None:
    """Raise ModelPackageError unless what a pipeline explains a model by does so here, on the golden rows."""
    try:
        trees = load_explainer(model, directory)
    except ModelPackageError as error:
        raise ModelPackageError(f"its scores cannot be explained: {error.what}", where="model", next=_NEXT) from error
    if isinstance(trees, str):
        raise ModelPackageError(f"its scores cannot be explained: {trees}", where="model", next=_NEXT)
