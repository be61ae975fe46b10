"""Forests behind the model protocol without ONNX Runtime: the compiled forest kernel (forest.c).

For the trees that bit vectors do not fit: of more than 64 leaves, of several classes, or oblivious ones. Optional, as
the bit-vector kernel is. What it takes beside ONNX Runtime and other libraries stands in docs/performance.md.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any, ClassVar, Final, Self

import numpy as np
from numpy.typing import NDArray

from tailrace.errors import ModelPackageError
from tailrace.inference.backends.bitvector import BitvectorModel, ScoreFunction, borrow, in_order, open_library
from tailrace.inference.backends.forest_tables import LINKS, ForestArrays, decode_forest, expand_forest
from tailrace.inference.backends.table import FOREST
from tailrace.inference.manifest import FOREST_FILE, REPACKAGE, Manifest
from tailrace.inference.model_directory import read_manifest

LIBRARY: Final = Path(__file__).with_name("libforest.so")
"""Where the build (hatch_build.py) puts the library."""
LIBRARY_LAYOUT: Final = 1
"""Of `_Forest`, as forest.c has it."""

_FLOAT32: Final = np.dtype(np.float32)
_REASONS: Final = {1: "the library was compiled from another version of forest.c", 2: "out of memory"}
_POINTERS: Final = (
    "columns", "missing", "nodes", "starts", "targets", "vectors", "depths", "tests", "thresholds", "base",
)  # fmt: skip


class _Forest(ctypes.Structure):
    """`tailrace_forest` of forest.c."""

    _fields_ = (
        *((name, ctypes.c_int64)
          for name in ("layout", "features", "slots", "trees", "outputs", "link", "bits", "oblivious")),
        *((name, ctypes.c_void_p) for name in _POINTERS),
        ("scale", ctypes.c_double),
    )  # fmt: skip


class ForestKernel:
    """The trees of one model, in the library's hands. May be called from several threads at once.

    score: the function of `open_library`. Raises OSError when it was compiled from another version.
    """

    __slots__ = ("_address", "_features", "_forest", "_outputs", "_score", "arrays")

    def __init__(self, arrays: ForestArrays, score: ScoreFunction) -> None:
        self.arrays = arrays
        self._features = arrays.features
        self._outputs = arrays.outputs
        self._score = score
        found = {name: getattr(arrays, name) for name in _POINTERS}
        self._forest = _Forest(
            LIBRARY_LAYOUT, arrays.features, len(arrays.columns), arrays.trees, arrays.outputs,
            LINKS.index(arrays.link), arrays.slot_bits, arrays.oblivious,
            *(array.ctypes.data if array.size else None for array in found.values()), arrays.scale,
        )  # fmt: skip
        self._address = ctypes.addressof(self._forest)
        self.score(np.zeros((1, arrays.features), np.float32))

    def score(self, matrix: NDArray[Any]) -> NDArray[np.float32]:
        """Return the scores of a float32 matrix, (rows, features); the GIL is released meanwhile.

        (rows,) where the forest has one output, else (rows, outputs). Raises ValueError for another dtype or shape; a
        matrix in another order is copied.
        """
        if matrix.dtype is not _FLOAT32 or not matrix.flags.carray:
            matrix = in_order(matrix)
        if matrix.ndim != 2 or matrix.shape[1] != self._features:
            raise ValueError(f"the model takes (rows, {self._features}), not {matrix.shape}")
        rows = len(matrix)
        scores = np.empty(rows if self._outputs == 1 else (rows, self._outputs), np.float32)
        status = self._score(self._address, borrow(matrix), rows, borrow(scores))
        if status:
            raise OSError(_REASONS[status])
        return scores


class ForestModel(BitvectorModel):
    """A packaged forest that the forest kernel computes. May be called from several threads at once."""

    __slots__ = ()

    backend: ClassVar[str] = FOREST

    @classmethod
    def load(cls, directory: str | Path) -> Self:
        """Return the model of a directory that `tailrace package` wrote.

        Raises OSError, saying why, where this machine cannot use the compiled library, or not for the golden rows'
        scores; ModelPackageError unless the files are whole and the tables are the signature's.
        """
        directory = Path(directory)
        manifest = read_manifest(directory)
        if FOREST_FILE not in manifest.files:
            raise OSError("the model directory has no forest for it")
        score = open_library(LIBRARY)
        path = directory / FOREST_FILE
        model = cls(ForestKernel(_read_forest(path, manifest), score), manifest)
        try:
            model.check_golden(path)
        except ModelPackageError as error:
            raise OSError(error.what) from error
        return model


def _read_forest(path: Path, manifest: Manifest) -> ForestArrays:
    """Return the forest in a file. Raises ModelPackageError for none, or another one than the signature's."""
    try:
        arrays = expand_forest(decode_forest(path.read_bytes()))
    except ValueError as error:
        raise ModelPackageError(
            f"the file is not what it should be: {error}", where=str(path), next=REPACKAGE
        ) from error
    signature = manifest.signature
    fits = len(signature.inputs) == 1 and signature.inputs[0].dtype == "float32"
    if not fits or (len(signature.inputs[0].features), signature.scores_width) != (arrays.features, arrays.outputs):
        raise ModelPackageError(
            f"the forest is of {arrays.features} float32 features and {arrays.outputs} scores, the signature is not",
            where=str(path),
            next=REPACKAGE,
        )
    return arrays
