"""XGBoost behind the model protocol: its own library, called as its C interface documents, without Python's part of it.

`Booster.inplace_predict` takes 150 µs for one row of 200 trees, half of it in Python; the library's call takes 75, for
a batch's matrix as it is.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from tailrace.inference.backends.kernel import in_order
from tailrace.inference.backends.native import NativeModel, Predict, matrix_input, missing_library
from tailrace.inference.backends.table import XGBOOST
from tailrace.inference.backends.ubjson import decode_ubjson
from tailrace.inference.backends.xgboost_trees import check_trees
from tailrace.inference.manifest import XGBOOST_FILE
from tailrace.inference.predictor import Feeds
from tailrace.inference.signature import Signature

_OPTIONS: Final = json.dumps(
    {"type": 0, "training": False, "iteration_begin": 0, "iteration_end": 0, "missing": float("nan"),
     "strict_shape": False, "cache_id": 0}
).encode()  # fmt: skip
_FLOAT32: Final = np.dtype(np.float32)


class XgboostModel(NativeModel):
    """A packaged model that XGBoost computes. May be called from several threads: each has a result of its own."""

    __slots__ = ()

    backend: ClassVar[str] = XGBOOST
    file: ClassVar[str] = XGBOOST_FILE

    @staticmethod
    def open(content: bytes, signature: Signature, trusted: Sequence[str] = ()) -> Predict:
        """Return what computes a model that `Booster.save_raw("ubj")` wrote."""
        check_trees(decode_ubjson(content))
        return XgboostTrees(content, signature).predict


class XgboostTrees:
    """The trees of one model, in the library's hands, which frees them with this object."""

    def __init__(self, content: bytes, signature: Signature) -> None:
        self._handle = ctypes.c_void_p()  # first: it is freed where the rest fails
        self._library = open_library()
        self._name, dtype, self._width = matrix_input(signature)
        if dtype != _FLOAT32:
            raise ValueError("it takes float32, the signature is of something else")
        self._columns = signature.scores_width
        self._call("XGBoosterCreate", None, ctypes.c_uint64(0), ctypes.byref(self._handle))
        self._call("XGBoosterLoadModelFromBuffer", self._handle, content, ctypes.c_uint64(len(content)))
        self._call("XGBoosterSetParam", self._handle, b"nthread", b"1")
        found = ctypes.c_uint64()
        self._call("XGBoosterGetNumFeature", self._handle, ctypes.byref(found))
        if found.value != self._width:
            raise ValueError(f"it takes {found.value} features, the signature has {self._width}")
        self._predict = self._library.XGBoosterPredictFromDense

    def predict(self, feeds: Feeds) -> NDArray[Any]:
        """Return the scores, float32, (rows,) or (rows, classes). The GIL is released meanwhile."""
        matrix = in_order(feeds[self._name], _FLOAT32, self._width)
        rows = len(matrix)
        # What NumPy calls an array's interface: where it is, and of what shape.
        where = b'{"data":[%d,true],"shape":[%d,%d],"typestr":"<f4","version":3}' % (
            matrix.ctypes.data, rows, self._width,
        )  # fmt: skip
        shape, scores = ctypes.POINTER(ctypes.c_uint64)(), ctypes.POINTER(ctypes.c_float)()
        dimensions = ctypes.c_uint64()
        self._require(
            self._predict(
                self._handle, where, _OPTIONS, None, ctypes.byref(shape), ctypes.byref(dimensions), ctypes.byref(scores)
            )
        )
        found = tuple(shape[: dimensions.value])
        if found not in {(rows,), (rows, self._columns)}:
            raise ValueError(f"XGBoost gives scores of shape {found} for {rows} rows")
        wanted = (rows,) if self._columns == 1 else (rows, self._columns)
        return np.ctypeslib.as_array(scores, wanted).copy()  # the library's, until it is asked again

    def _call(self, name: str, *arguments: Any) -> None:
        self._require(getattr(self._library, name)(*arguments))

    def _require(self, status: int) -> None:
        if status:
            lines = self._library.XGBGetLastError().decode(errors="replace").splitlines()
            raise ValueError(f"XGBoost: {lines[0] if lines else status}")

    def __del__(self) -> None:
        if self._handle:
            self._library.XGBoosterFree(self._handle)


@cache
def open_library() -> Any:
    """Return XGBoost's library. Raises OSError where it is not installed, or is of before 2.0."""
    spec = find_spec("xgboost")
    places = spec.submodule_search_locations if spec is not None else None
    if not places:
        missing_library("xgboost", "xgboost")
    path = Path(next(iter(places))) / "lib" / "libxgboost.so"
    library = ctypes.CDLL(str(path))
    try:
        library.XGBGetLastError.restype = ctypes.c_char_p
        library.XGBoosterFree.argtypes = (ctypes.c_void_p,)
        library.XGBoosterPredictFromDense.argtypes = (
            ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p, *(ctypes.c_void_p for _ in range(3)),
        )  # fmt: skip
    except AttributeError as error:
        raise OSError(f"{path} is no library of XGBoost 2") from error
    return library
