"""What the compiled kernels of trees share: the library, the matrix it reads, the call, and the model around them.

Each kernel is optional: its library is compiled when Tailrace is installed where there is a C compiler.
"""

from __future__ import annotations

import ctypes
from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final, Self

import numpy as np
from numpy.typing import NDArray

from tailrace.errors import ModelPackageError
from tailrace.inference.manifest import REPACKAGE, Manifest
from tailrace.inference.model_directory import read_manifest
from tailrace.inference.packaged import PackagedModel
from tailrace.inference.predictor import Feeds
from tailrace.inference.signature import Signature

_FLOAT32: Final = np.dtype(np.float32)
_REASONS: Final = {1: "the library was compiled from another version of {}", 2: "out of memory"}

ScoreFunction = Callable[[int, Any, int, Any], int]
"""A library's function: the trees' address, the rows, how many they are, where the scores go; returns a status."""

borrow: Final[Callable[[Any], Any]] = (ctypes.c_float * 0).from_buffer
"""A pointer to an array that lends its buffer: 0.35 µs; `array.ctypes.data` takes 1.3, an `ndpointer` argument 3."""


def open_library(path: Path) -> ScoreFunction:
    """Return the function of a compiled library. Raises OSError, saying why, where it cannot be used."""
    if not path.is_file():
        raise OSError("it was not compiled when Tailrace was installed")
    try:
        function = ctypes.CDLL(str(path)).tailrace_score
    except AttributeError as error:
        raise OSError(f"{path.name} is another library") from error
    function.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p)
    function.restype = ctypes.c_int
    return function


def in_order(matrix: NDArray[Any], dtype: np.dtype[Any], width: int) -> NDArray[Any]:
    """Return a matrix whose buffer a compiled library can read: C order, aligned; a copy where it has to be.

    Raises ValueError for another shape or dtype.
    """
    if matrix.dtype is not dtype and matrix.dtype != dtype:
        raise ValueError(f"the model takes {dtype}, not {matrix.dtype}")
    if matrix.ndim != 2 or matrix.shape[1] != width:
        raise ValueError(f"the model takes (rows, {width}), not {matrix.shape}")
    return matrix if matrix.flags.carray else np.require(matrix, dtype, ["C", "A", "W"])


class Kernel:
    """The trees of one model, in a library's hands. May be called from several threads at once.

    arrays: the trees, which `structure` points into as the library reads them. score: the function of `open_library`.
    outputs: scores of a row. source: the file that the library was compiled from.
    Raises OSError when it was compiled from another version.
    """

    __slots__ = ("_address", "_features", "_outputs", "_score", "_structure", "arrays")

    source: ClassVar[str]

    def __init__(self, arrays: Any, structure: ctypes.Structure, score: ScoreFunction, outputs: int = 1) -> None:
        self.arrays = arrays
        self._features: int = arrays.features
        self._outputs = outputs
        self._score = score
        self._structure = structure
        self._address = ctypes.addressof(structure)
        self.score(np.zeros((1, self._features), np.float32))

    def score(self, matrix: NDArray[Any]) -> NDArray[np.float32]:
        """Return the scores of a float32 matrix, (rows, features); the GIL is released meanwhile.

        (rows,) where a row has one, else (rows, outputs). Raises ValueError for another dtype or shape; a matrix in
        another order is copied.
        """
        matrix = in_order(matrix, _FLOAT32, self._features)
        rows = len(matrix)
        scores = np.empty(rows if self._outputs == 1 else (rows, self._outputs), np.float32)
        status = self._score(self._address, borrow(matrix), rows, borrow(scores))
        if status:
            raise OSError(_REASONS[status].format(self.source))
        return scores


class KernelModel(PackagedModel):
    """A packaged model whose trees a compiled kernel computes. May be called from several threads at once.

    file: of the model directory, with the trees as the kernel takes them.
    """

    __slots__ = ("_input", "_score", "tables")

    file: ClassVar[str]

    def __init__(self, kernel: Kernel, manifest: Manifest) -> None:
        super().__init__(manifest)
        self.tables = kernel.arrays
        self._score = kernel.score
        self._input = manifest.signature.inputs[0].name

    @staticmethod
    @abstractmethod
    def open(path: Path, signature: Signature) -> Kernel:
        """Return the kernel with the trees in a file.

        Raises OSError, saying why, where this machine cannot use the compiled library; ValueError for a content that is
        not what it should be.
        """

    @classmethod
    def load(cls, directory: str | Path, trusted: Sequence[str] = ()) -> Self:
        """Return the model of a directory that `tailrace package` wrote.

        trusted: of no use, since its file names no types.
        Raises OSError, saying why, where this machine cannot use the compiled library, or not for the golden rows'
        scores; ModelPackageError unless the files are whole and the trees are the signature's.
        """
        directory = Path(directory)
        manifest = read_manifest(directory)
        if cls.file not in manifest.files:
            raise OSError(f"the model directory has no {cls.file}")
        path = directory / cls.file
        try:
            kernel = cls.open(path, manifest.signature)
        except ValueError as error:
            raise ModelPackageError(
                f"the file is not what it should be: {error}", where=str(path), next=REPACKAGE
            ) from error
        model = cls(kernel, manifest)
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
