"""The backends that can compute a packaged model: each by its name, the file it computes, and where its code is.

A backend is a subclass of `PackagedModel` with a `load`. Its module is imported only where it computes a model, since
what it needs may take tens of megabytes, or not be installed.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Final, NamedTuple

from tailrace.inference.manifest import (
    FOREST_FILE,
    LIGHTGBM_FILE,
    MODEL_FILE,
    PYTORCH_FILE,
    SKLEARN_FILE,
    TREES_FILE,
    XGBOOST_FILE,
    Manifest,
)
from tailrace.inference.packaged import PackagedModel

BIT_VECTORS: Final = "bit vectors"
FOREST: Final = "forest kernel"
ONNX_RUNTIME: Final = "ONNX Runtime"
LIGHTGBM: Final = "LightGBM"
XGBOOST: Final = "XGBoost"
SKLEARN: Final = "scikit-learn"
PYTORCH: Final = "PyTorch"


class Backend(NamedTuple):
    """What computes a model. file: the form of the model that it computes. module, model: where its class is.

    is_light: whether loading a model with it imports nothing that is large.
    """

    name: str
    file: str
    module: str
    model: str
    is_light: bool = False

    def load(self, directory: Path) -> PackagedModel:
        """Return the model of a directory, its golden rows checked.

        Raises OSError, saying why, where this machine cannot use the backend; ModelPackageError where the files are not
        what they should be.
        """
        found: type[PackagedModel] = getattr(import_module(f"tailrace.inference.backends.{self.module}"), self.model)
        return found.load(directory)


BACKENDS: Final = (
    Backend(BIT_VECTORS, TREES_FILE, "bitvector", "BitvectorModel", is_light=True),
    Backend(FOREST, FOREST_FILE, "forest", "ForestModel", is_light=True),
    Backend(ONNX_RUNTIME, MODEL_FILE, "onnx", "OnnxModel"),
    Backend(LIGHTGBM, LIGHTGBM_FILE, "lightgbm", "LightgbmModel", is_light=True),
    Backend(XGBOOST, XGBOOST_FILE, "xgboost", "XgboostModel", is_light=True),
    Backend(SKLEARN, SKLEARN_FILE, "sklearn", "SklearnModel"),
    Backend(PYTORCH, PYTORCH_FILE, "pytorch", "PytorchModel"),
)
"""In the order of preference: of two that are equally fast the first one computes the model."""


def backend_named(name: str) -> Backend | None:
    """Return the backend of a name; None where this Tailrace has none."""
    return next((backend for backend in BACKENDS if backend.name == name), None)


def backends_of(manifest: Manifest) -> list[Backend]:
    """Return the backends that have their form of a model, the preferred one first."""
    return [backend for backend in BACKENDS if backend.file in manifest.files]
