"""Forests behind the model protocol without ONNX Runtime: the compiled forest kernel (forest.c).

For the trees that bit vectors do not fit: of more than 64 leaves, of several classes, or oblivious ones. What it takes
beside ONNX Runtime and other libraries stands in docs/performance.md.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import ClassVar, Final

from tailrace.inference.backends.forest_tables import LINKS, ForestArrays, decode_forest, expand_forest
from tailrace.inference.backends.kernel import Kernel, KernelModel, ScoreFunction, open_library
from tailrace.inference.backends.table import FOREST
from tailrace.inference.manifest import FOREST_FILE
from tailrace.inference.model_directory import read_in_parts
from tailrace.inference.signature import Signature

LIBRARY: Final = Path(__file__).with_name("libforest.so")
"""Where the build (hatch_build.py) puts the library."""
LIBRARY_LAYOUT: Final = 1
"""Of `_Forest`, as forest.c has it."""

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


class ForestKernel(Kernel):
    """The trees of one model, in the library's hands. May be called from several threads at once.

    score: the function of `open_library`. Raises OSError when it was compiled from another version.
    """

    __slots__ = ()

    source: ClassVar[str] = "forest.c"

    def __init__(self, arrays: ForestArrays, score: ScoreFunction) -> None:
        found = {name: getattr(arrays, name) for name in _POINTERS}
        forest = _Forest(
            LIBRARY_LAYOUT, arrays.features, len(arrays.columns), arrays.trees, arrays.outputs,
            LINKS.index(arrays.link), arrays.slot_bits, arrays.oblivious,
            *(array.ctypes.data if array.size else None for array in found.values()), arrays.scale,
        )  # fmt: skip
        super().__init__(arrays, forest, score, arrays.outputs)


class ForestModel(KernelModel):
    """A packaged forest that the forest kernel computes."""

    __slots__ = ()

    backend: ClassVar[str] = FOREST
    file: ClassVar[str] = FOREST_FILE

    @staticmethod
    def open(path: Path, signature: Signature) -> ForestKernel:
        """Return the kernel with the forest in a file.

        Raises OSError, saying why, where this machine cannot use the compiled library; ValueError for no forest, or
        another one than the signature's.
        """
        score = open_library(LIBRARY)
        arrays = expand_forest(decode_forest(read_in_parts(path)))
        fits = len(signature.inputs) == 1 and signature.inputs[0].dtype == "float32"
        if not fits or (len(signature.inputs[0].features), signature.scores_width) != (arrays.features, arrays.outputs):
            raise ValueError(
                f"its forest is of {arrays.features} float32 features and {arrays.outputs} scores, the signature is not"
            )
        return ForestKernel(arrays, score)
