"""The backends that can compute a packaged model: each by its name, the file it computes, and where its code is.

A backend is a subclass of `PackagedModel` with a `load`. Its module is imported only where it computes a model, since
what it needs may take tens of megabytes, or not be installed.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, NamedTuple

from tailrace.inference.manifest import (
    CATBOOST_FILE,
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
CUDA: Final = "ONNX Runtime on CUDA"
TENSORRT: Final = "ONNX Runtime on TensorRT"
LIGHTGBM: Final = "LightGBM"
XGBOOST: Final = "XGBoost"
CATBOOST: Final = "CatBoost"
SKLEARN: Final = "scikit-learn"
PYTORCH: Final = "PyTorch"


class Backend(NamedTuple):
    """What computes a model. file: the form of the model that it computes. module, model: where its class is.

    is_light: whether loading a model with it imports nothing that is large. needs: a file of a module without which it
    is not there at all, as `onnxruntime/capi/….so`. start_s: what it may take to start, beyond what others take.
    is_on_gpu: whether it computes on a GPU.
    """

    name: str
    file: str
    module: str
    model: str
    is_light: bool = False
    needs: str = ""
    start_s: float = 0.0
    is_on_gpu: bool = False

    @property
    def is_installed(self) -> bool:
        """Whether what it needs is there; nothing is imported to see that."""
        module, _, file = self.needs.partition("/")
        spec = find_spec(module) if module else None
        places = spec.submodule_search_locations if spec is not None else None
        return not module or any(Path(place, file).is_file() for place in places or ())

    def load(self, directory: Path, trusted: Sequence[str] = ()) -> PackagedModel:
        """Return the model of a directory, its golden rows checked.

        trusted: types that the user trusts, of a form that names types.
        Raises OSError, saying why, where this machine cannot use the backend; ModelPackageError where the files are not
        what they should be.
        """
        found: Any = getattr(import_module(f"tailrace.inference.backends.{self.module}"), self.model)
        model: PackagedModel = found.load(directory, trusted)
        return model


BACKENDS: Final = (
    Backend(BIT_VECTORS, TREES_FILE, "bitvector", "BitvectorModel", is_light=True),
    Backend(FOREST, FOREST_FILE, "forest", "ForestModel", is_light=True),
    Backend(ONNX_RUNTIME, MODEL_FILE, "onnx", "OnnxModel"),
    Backend(CUDA, MODEL_FILE, "onnx_gpu", "CudaModel",
            needs="onnxruntime/capi/libonnxruntime_providers_cuda.so", start_s=10.0, is_on_gpu=True),
    Backend(TENSORRT, MODEL_FILE, "onnx_gpu", "TensorrtModel",
            needs="onnxruntime/capi/libonnxruntime_providers_tensorrt.so", start_s=60.0, is_on_gpu=True),
    Backend(LIGHTGBM, LIGHTGBM_FILE, "lightgbm", "LightgbmModel", is_light=True),
    Backend(XGBOOST, XGBOOST_FILE, "xgboost", "XgboostModel", is_light=True),
    Backend(CATBOOST, CATBOOST_FILE, "catboost", "CatboostModel"),
    Backend(SKLEARN, SKLEARN_FILE, "sklearn", "SklearnModel"),
    Backend(PYTORCH, PYTORCH_FILE, "pytorch", "PytorchModel"),
)  # fmt: skip
"""In the order of preference: of two that are equally fast the first one computes the model."""


def backend_named(name: str) -> Backend | None:
    """Return the backend of a name; None where this Tailrace has none."""
    return next((backend for backend in BACKENDS if backend.name == name), None)


def backends_of(manifest: Manifest) -> list[Backend]:
    """Return the backends that have their form of a model and are installed, the preferred one first.

    A library that is missing is no reason to leave a model's only form out: it is told when that is loaded.
    """
    return [backend for backend in BACKENDS if backend.file in manifest.files and backend.is_installed]
