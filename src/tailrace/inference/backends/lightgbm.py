"""LightGBM behind the model protocol: its own library, called as its C interface documents, without its Python package.

`Booster.predict` looks at what it is given for some 15 µs a call, and importing it takes scikit-learn, SciPy and a
hundred megabytes. The library takes the batch's matrix as it is. For one row it has a call that keeps what it needs:
6 µs less than the general one, which a few rows one after the other save as well.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from tailrace.inference.backends.kernel import in_order
from tailrace.inference.backends.lightgbm_text import check_text
from tailrace.inference.backends.native import NativeModel, Predict, matrix_input, missing_library
from tailrace.inference.backends.table import LIGHTGBM
from tailrace.inference.manifest import LIGHTGBM_FILE
from tailrace.inference.predictor import Feeds
from tailrace.inference.signature import Signature

ROWS_SINGLE_MAX: Final = 4
"""Rows that are scored one after the other."""
PARAMETERS: Final = b"num_threads=1"

_DTYPES: Final = {"float32": 0, "float64": 1}
_NORMAL: Final = 0
_ALL_TREES: Final = -1


class LightgbmModel(NativeModel):
    """A packaged model that LightGBM computes. May be called from several threads: the library locks."""

    __slots__ = ()

    backend: ClassVar[str] = LIGHTGBM
    file: ClassVar[str] = LIGHTGBM_FILE

    @staticmethod
    def open(content: bytes, signature: Signature, trusted: Sequence[str] = ()) -> Predict:
        """Return what computes a text that `Booster.save_model` wrote."""
        check_text(content)
        return LightgbmTrees(content, signature).predict


class LightgbmTrees:
    """The trees of one model, in the library's hands, which frees them with this object."""

    def __init__(self, content: bytes, signature: Signature) -> None:
        self._handle, self._single = ctypes.c_void_p(), ctypes.c_void_p()  # first: they are freed where the rest fails
        self._library = open_library()
        self._name, self._dtype, self._width = matrix_input(signature)
        self._kind = _DTYPES[self._dtype.name]
        self._columns = signature.scores_width
        iterations = ctypes.c_int()
        self._call("LGBM_BoosterLoadModelFromString", content, ctypes.byref(iterations), ctypes.byref(self._handle))
        self._check_shape()
        self._call(
            "LGBM_BoosterPredictForMatSingleRowFastInit", self._handle, _NORMAL, 0, _ALL_TREES, self._kind, self._width,
            PARAMETERS, ctypes.byref(self._single),
        )  # fmt: skip
        self._predict_row = self._library.LGBM_BoosterPredictForMatSingleRowFast
        self._predict_rows = self._library.LGBM_BoosterPredictForMat

    def predict(self, feeds: Feeds) -> NDArray[Any]:
        """Return the scores, float64, (rows,) or (rows, classes). The GIL is released meanwhile."""
        matrix = in_order(feeds[self._name], self._dtype, self._width)
        rows = len(matrix)
        scores = np.empty(rows * self._columns, np.float64)
        written = ctypes.c_int64()
        if rows <= ROWS_SINGLE_MAX:
            self._score_singly(matrix, scores, ctypes.addressof(written))
        else:
            self._require(
                self._predict_rows(
                    self._handle, matrix.ctypes.data, self._kind, rows, self._width, 1, _NORMAL, 0, _ALL_TREES,
                    PARAMETERS, ctypes.byref(written), scores.ctypes.data,
                )
            )  # fmt: skip
        return scores if self._columns == 1 else scores.reshape(rows, self._columns)

    def _score_singly(self, matrix: NDArray[Any], scores: NDArray[np.float64], written: int) -> None:
        address, step = matrix.ctypes.data, matrix.strides[0]
        out, out_step = scores.ctypes.data, 8 * self._columns
        for _ in range(len(matrix)):
            self._require(self._predict_row(self._single, address, written, out))
            address += step
            out += out_step

    def _check_shape(self) -> None:
        """Raise ValueError unless the trees take the signature's features and give its scores."""
        found = ctypes.c_int()
        for name, wanted in (("LGBM_BoosterGetNumFeature", self._width), ("LGBM_BoosterGetNumClasses", self._columns)):
            self._call(name, self._handle, ctypes.byref(found))
            if found.value != wanted:
                raise ValueError(
                    f"{name.removeprefix('LGBM_BoosterGet')} is {found.value}, the signature says {wanted}"
                )

    def _call(self, name: str, *arguments: Any) -> None:
        self._require(getattr(self._library, name)(*arguments))

    def _require(self, status: int) -> None:
        if status:
            raise ValueError(f"LightGBM: {self._library.LGBM_GetLastError().decode(errors='replace')}")

    def __del__(self) -> None:
        if self._single:
            self._library.LGBM_FastConfigFree(self._single)
        if self._handle:
            self._library.LGBM_BoosterFree(self._handle)


@cache
def open_library() -> Any:
    """Return LightGBM's library. Raises OSError where it is not installed, or is of before 4.0."""
    spec = find_spec("lightgbm")
    places = spec.submodule_search_locations if spec is not None else None
    if not places:
        missing_library("lightgbm", "lightgbm")
    path = Path(next(iter(places))) / "lib" / "lib_lightgbm.so"
    library = ctypes.CDLL(str(path))
    pointer, integer = ctypes.c_void_p, ctypes.c_int
    try:
        library.LGBM_GetLastError.restype = ctypes.c_char_p
        library.LGBM_FastConfigFree.argtypes = library.LGBM_BoosterFree.argtypes = (pointer,)
        library.LGBM_BoosterPredictForMatSingleRowFast.argtypes = (pointer, pointer, pointer, pointer)
        library.LGBM_BoosterPredictForMat.argtypes = (
            pointer, pointer, integer, ctypes.c_int32, ctypes.c_int32, integer, integer, integer, integer,
            ctypes.c_char_p, pointer, pointer,
        )  # fmt: skip
    except AttributeError as error:
        raise OSError(f"{path} is no library of LightGBM 4") from error
    return library
