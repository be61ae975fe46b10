"""Tree ensembles behind the model protocol without ONNX Runtime: the compiled bit-vector kernel (bitvector.c).

Optional: the library is compiled when Tailrace is installed where there is a C compiler. Against ONNX Runtime, which
follows the branches of each tree, it takes half the time for one row and a fifth for 64 (docs/performance.md).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Final, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from tailrace.errors import ModelPackageError
from tailrace.inference.backends.table import BIT_VECTORS
from tailrace.inference.backends.tree_tables import TreeArrays, decode_tables, expand_tables
from tailrace.inference.manifest import REPACKAGE, TREES_FILE, Manifest
from tailrace.inference.model_directory import read_manifest
from tailrace.inference.packaged import PackagedModel
from tailrace.inference.predictor import Feeds

LIBRARY: Final = Path(__file__).with_name("libbitvector.so")
"""Where the build (hatch_build.py) puts the library."""
LIBRARY_LAYOUT: Final = 1
"""Of `_Trees`, as bitvector.c has it."""

_FLOAT32: Final = np.dtype(np.float32)
_REASONS: Final = {1: "the library was compiled from another version of bitvector.c", 2: "out of memory"}
_POINTERS: Final = (
    "columns", "offsets", "first_rows", "thresholds", "split_trees", "split_masks", "checkpoints", "values",
)  # fmt: skip

ScoreFunction = Callable[[int, Any, int, Any], int]
"""The library's function: the trees' address, the rows, how many they are, where the scores go."""

borrow: Final[Callable[[Any], Any]] = (ctypes.c_float * 0).from_buffer
"""A pointer to an array that lends its buffer: 0.35 µs; `array.ctypes.data` takes 1.3, an `ndpointer` argument 3."""


class _Trees(ctypes.Structure):
    """`tailrace_trees` of bitvector.c."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("layout", "features", "used", "trees", "leaves", "shift", "sigmoid")),
        *((name, ctypes.c_void_p) for name in _POINTERS),
        ("base", ctypes.c_double),
    )


def open_library(path: Path | None = None) -> ScoreFunction:
    """Return the function of the compiled library. Raises OSError, saying why, where it cannot be used."""
    path = path or LIBRARY
    if not path.is_file():
        raise OSError("it was not compiled when Tailrace was installed")
    try:
        function = ctypes.CDLL(str(path)).tailrace_score
    except AttributeError as error:
        raise OSError(f"{path.name} is another library") from error
    function.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p)
    function.restype = ctypes.c_int
    return function


class BitvectorKernel:
    """The trees of one model, in the library's hands. May be called from several threads at once.

    score: the function of `open_library`. Raises OSError when it was compiled from another version.
    """

    __slots__ = ("_address", "_features", "_score", "_trees", "arrays")

    def __init__(self, arrays: TreeArrays, score: ScoreFunction) -> None:
        self.arrays = arrays
        self._features = arrays.features
        self._score = score
        self._trees = _Trees(
            LIBRARY_LAYOUT, arrays.features, len(arrays.columns), arrays.trees, arrays.leaves, arrays.shift,
            arrays.link == "sigmoid", *(getattr(arrays, name).ctypes.data for name in _POINTERS), arrays.base,
        )  # fmt: skip
        self._address = ctypes.addressof(self._trees)
        self.score(np.zeros((1, arrays.features), np.float32))

    def score(self, matrix: NDArray[Any]) -> NDArray[np.float32]:
        """Return the scores of a float32 matrix, (rows, features), as (rows,); the GIL is released meanwhile.

        Raises ValueError for another dtype or shape; a matrix in another order is copied.
        """
        if matrix.dtype is not _FLOAT32 or not matrix.flags.carray:
            matrix = in_order(matrix)
        if matrix.ndim != 2 or matrix.shape[1] != self._features:
            raise ValueError(f"the model takes (rows, {self._features}), not {matrix.shape}")
        rows = len(matrix)
        scores = np.empty(rows, np.float32)
        status = self._score(self._address, borrow(matrix), rows, borrow(scores))
        if status:
            raise OSError(_REASONS[status])
        return scores


class Kernel(Protocol):
    """Trees in the hands of a compiled library."""

    arrays: Any

    def score(self, matrix: NDArray[Any]) -> NDArray[np.float32]:
        """Return the scores of a float32 matrix."""
        ...


class BitvectorModel(PackagedModel):
    """A packaged tree ensemble that the bit-vector kernel computes. May be called from several threads at once."""

    __slots__ = ("_input", "_score", "tables")

    backend: ClassVar[str] = BIT_VECTORS

    def __init__(self, kernel: Kernel, manifest: Manifest) -> None:
        super().__init__(manifest)
        self.tables = kernel.arrays
        self._score = kernel.score
        self._input = manifest.signature.inputs[0].name

    @classmethod
    def load(cls, directory: str | Path) -> Self:
        """Return the model of a directory that `tailrace package` wrote.

        Raises OSError, saying why, where this machine cannot use the compiled library, or not for the golden rows'
        scores; ModelPackageError unless the files are whole and the tables are the signature's.
        """
        directory = Path(directory)
        manifest = read_manifest(directory)
        if TREES_FILE not in manifest.files:
            raise OSError("the model directory has no tables for it")
        score = open_library()
        path = directory / TREES_FILE
        model = cls(BitvectorKernel(_read_tables(path, manifest), score), manifest)
        try:
            model.check_golden(path)
        except ModelPackageError as error:
            raise OSError(error.what) from error
        return model

    def predict(self, feeds: Feeds) -> NDArray[Any]:
        """Return the scores: float32, shape (rows,), or (rows, classes) where the signature names no column.

        feeds: the model's one input, float32, (rows, features); faster in C order. Raises ValueError for another shape
        or dtype, KeyError when the input is missing.
        """
        scores = self._score(feeds[self._input])
        return self._finish(scores, feeds) if self._unfinished else scores


def _read_tables(path: Path, manifest: Manifest) -> TreeArrays:
    """Return the tables in a file. Raises ModelPackageError for none, or other ones than the signature's."""
    try:
        arrays = expand_tables(decode_tables(path.read_bytes()))
    except ValueError as error:
        raise ModelPackageError(
            f"the file is not what it should be: {error}", where=str(path), next=REPACKAGE
        ) from error
    specs = manifest.signature.inputs
    if len(specs) != 1 or specs[0].dtype != "float32" or len(specs[0].features) != arrays.features:
        raise ModelPackageError(
            f"the tables are of {arrays.features} float32 features, the signature is not",
            where=str(path),
            next=REPACKAGE,
        )
    return arrays


def in_order(matrix: NDArray[Any]) -> NDArray[np.float32]:
    """Return a float32 matrix in C order, aligned, and one that lends its buffer: a copy where it has to be."""
    if matrix.dtype != _FLOAT32:
        raise ValueError(f"the model takes float32, not {matrix.dtype}")
    return np.require(matrix, np.float32, ["C", "A", "W"])
