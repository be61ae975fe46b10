"""Tree ensembles behind the model protocol without ONNX Runtime: the compiled bit-vector kernel (bitvector.c).

Against ONNX Runtime, which follows the branches of each tree, it takes half the time for one row and a fifth for 64
(docs/performance.md).
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import ClassVar, Final

from tailrace.inference.backends.kernel import Kernel, KernelModel, ScoreFunction, open_library
from tailrace.inference.backends.table import BIT_VECTORS
from tailrace.inference.backends.tree_tables import TreeArrays, decode_tables, expand_tables
from tailrace.inference.manifest import TREES_FILE
from tailrace.inference.model_directory import read_in_parts
from tailrace.inference.signature import Signature

LIBRARY: Final = Path(__file__).with_name("libbitvector.so")
"""Where the build (hatch_build.py) puts the library."""
LIBRARY_LAYOUT: Final = 1
"""Of `_Trees`, as bitvector.c has it."""

_POINTERS: Final = (
    "columns", "offsets", "first_rows", "thresholds", "split_trees", "split_masks", "checkpoints", "values",
)  # fmt: skip


class _Trees(ctypes.Structure):
    """`tailrace_trees` of bitvector.c."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("layout", "features", "used", "trees", "leaves", "shift", "sigmoid")),
        *((name, ctypes.c_void_p) for name in _POINTERS),
        ("base", ctypes.c_double),
    )


class BitvectorKernel(Kernel):
    """The trees of one model, in the library's hands. May be called from several threads at once.

    score: the function of `open_library`. Raises OSError when it was compiled from another version.
    """

    __slots__ = ()

    source: ClassVar[str] = "bitvector.c"

    def __init__(self, arrays: TreeArrays, score: ScoreFunction) -> None:
        trees = _Trees(
            LIBRARY_LAYOUT, arrays.features, len(arrays.columns), arrays.trees, arrays.leaves, arrays.shift,
            arrays.link == "sigmoid", *(getattr(arrays, name).ctypes.data for name in _POINTERS), arrays.base,
        )  # fmt: skip
        super().__init__(arrays, trees, score)


class BitvectorModel(KernelModel):
    """A packaged tree ensemble that the bit-vector kernel computes."""

    __slots__ = ()

    backend: ClassVar[str] = BIT_VECTORS
    file: ClassVar[str] = TREES_FILE

    @staticmethod
    def open(path: Path, signature: Signature) -> BitvectorKernel:
        """Return the kernel with the tables in a file.

        Raises OSError, saying why, where this machine cannot use the compiled library; ValueError for no tables, or
        other ones than the signature's.
        """
        score = open_library(LIBRARY)
        arrays = expand_tables(decode_tables(read_in_parts(path)))
        specs = signature.inputs
        if len(specs) != 1 or specs[0].dtype != "float32" or len(specs[0].features) != arrays.features:
            raise ValueError(f"its tables are of {arrays.features} float32 features, the signature is not")
        return BitvectorKernel(arrays, score)
