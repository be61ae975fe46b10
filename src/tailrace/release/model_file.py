"""The file of a trained model: looked at before the framework reads it that wrote it.

A pickle is not a file of values but a program, which runs when it is opened. So none is opened that is not said to be
trusted, whatever its name ends with; and of all other files the counts and numbers are held against what is there.
"""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from tailrace.errors import ModelPackageError
from tailrace.inference.backends.catboost import load_trees
from tailrace.inference.backends.lightgbm_text import check_text
from tailrace.inference.backends.onnx_graph import ExternalDataError, check_graph
from tailrace.inference.backends.sklearn import load_estimator
from tailrace.inference.backends.ubjson import decode_ubjson
from tailrace.inference.backends.xgboost_trees import check_trees
from tailrace.release.probe import probe_graph
from tailrace.release.torch_program import TorchProgram

PICKLES: Final = frozenset({".pkl", ".pickle", ".joblib"})
GRAPH_BYTES_MAX: Final = (1 << 31) - 1
"""What a file of ONNX may hold by itself."""
_PICKLED: Final = b"\x80"
"""What every pickle begins with since protocol 2."""
_KNOWN: Final = (
    "give .txt (LightGBM), .json or .ubj (XGBoost), .cbm (CatBoost), .pt2 (PyTorch), .skops, .pkl or .joblib "
    "(scikit-learn), or .onnx"
)


def read_model(path: Path, *, allow_pickle: bool = False, suffix: str = "") -> Any:
    """Return the model object in a file; the bytes of an ONNX file, its weights among them.

    suffix: what the file is, where its name does not say so: ".txt" (LightGBM), ".ubj", ".onnx" and so on.
    Raises ModelPackageError for a pickle unless it is allowed, and for what is not what its name says.
    """
    suffix = suffix or path.suffix.lower()
    if not path.is_file():
        raise ModelPackageError("there is no such model file", where=str(path), next="give a trained model's file")
    if suffix not in _READERS:
        raise ModelPackageError(f"the suffix {suffix!r} names no known model file", where=str(path), next=_KNOWN)
    if suffix in PICKLES and not allow_pickle:
        raise refuse_pickle(path)
    try:
        content = path.read_bytes()
        if suffix not in PICKLES and content.startswith(_PICKLED):
            raise ValueError(f"it is a pickle, though it should be a {suffix}")
        return _READERS[suffix](path, content)
    except Exception as error:  # each framework raises its own, pickles raise anything
        raise ModelPackageError(
            f"the model cannot be read: {error}", where=str(path), next="save it again with the framework that made it"
        ) from error


def refuse_pickle(path: Path) -> ModelPackageError:
    """Return the refusal of a pickle that is not said to be trusted."""
    return ModelPackageError(
        "it is a pickle, which runs whatever code it holds, as you, when it is opened",
        where=str(path),
        next="save the model with its framework (LightGBM's .txt, XGBoost's .ubj), or package it from Python where it "
        "was trained; if you know who made the pickle: --allow-pickle",
    )


def _read_pickle(path: Path, content: bytes) -> Any:
    return pickle.loads(content)


def _read_joblib(path: Path, content: bytes) -> Any:
    import joblib

    return joblib.load(path)


def _read_lightgbm(path: Path, content: bytes) -> Any:
    check_text(content)
    import lightgbm

    return lightgbm.Booster(model_str=content.decode())


def _read_xgboost(path: Path, content: bytes) -> Any:
    """Return XGBoost's trees. Both of its forms begin with a brace; in JSON what follows it is a name, or no sign."""
    is_json = content[1:2] in {b'"', b"\n", b"\r", b"\t", b" "}
    check_trees(json.loads(content) if is_json else decode_ubjson(content))
    import xgboost

    return xgboost.Booster(model_file=bytearray(content))


def _read_skops(content: bytes) -> Any:
    """Return an estimator of types that skops knows to be harmless; any other is its maker's to package."""
    try:
        return load_estimator(content, ())
    except ValueError as error:
        raise ValueError(
            f"{error}; if you know who made it, load it with skops and package the object from Python"
        ) from error


def _read_graph(path: Path, content: bytes) -> bytes:
    """Return an ONNX file with its weights in it, those of other files of its directory too."""
    try:
        check_graph(content)
        probe_graph(content)
        return content
    except ExternalDataError as error:
        _check_places(path, error.names, len(content))
    import onnx

    whole = onnx.load_model_from_string(content)
    onnx.load_external_data_for_model(whole, str(path.parent))
    gathered: bytes = whole.SerializeToString()
    check_graph(gathered)
    probe_graph(gathered)
    return gathered


def _check_places(path: Path, names: list[str], size_bytes: int) -> None:
    """Raise ValueError unless the other files of a graph are plain ones of its own directory, and fit into one file."""
    folder = path.resolve().parent
    for name in names:
        place = path.parent / name
        if os.path.isabs(name) or place.resolve() != folder / os.path.normpath(name) or not place.is_file():
            raise ValueError(f"its weights lie in {name!r}, which is no file of its own directory, or a link")
        size_bytes += place.stat().st_size
    if size_bytes > GRAPH_BYTES_MAX:
        raise ValueError(
            f"with its weights it has {size_bytes} bytes, more than one file of ONNX may: {GRAPH_BYTES_MAX}"
        )


_READERS: Final[dict[str, Callable[[Path, bytes], Any]]] = {
    ".onnx": _read_graph,
    ".txt": _read_lightgbm,
    ".json": _read_xgboost,
    ".ubj": _read_xgboost,
    ".cbm": lambda path, content: load_trees(content),
    ".skops": lambda path, content: _read_skops(content),
    ".pt2": lambda path, content: TorchProgram(content),
    ".pkl": _read_pickle,
    ".pickle": _read_pickle,
    ".joblib": _read_joblib,
}
"""What a file is read with, by its suffix."""
