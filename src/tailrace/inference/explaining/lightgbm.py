"""LightGBM's own TreeSHAP, called as its C interface documents."""

from __future__ import annotations

import ctypes
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tailrace.inference.backends.kernel import in_order
from tailrace.inference.backends.lightgbm import PARAMETERS, LightgbmTrees
from tailrace.inference.backends.lightgbm_text import check_text
from tailrace.inference.predictor import Feeds
from tailrace.inference.signature import Signature

_CONTRIBUTIONS: Final = 3
_ALL_TREES: Final = -1


class ExplainedTrees(LightgbmTrees):
    """Trees that say what each feature adds."""

    def contributions(self, feeds: Feeds) -> NDArray[np.float64]:
        """Return what each feature adds to the raw score, then the base; the GIL is released meanwhile."""
        matrix = in_order(feeds[self._name], self._dtype, self._width)
        rows, columns = len(matrix), self._columns * (self._width + 1)
        found = np.empty((rows, columns), np.float64)
        written = ctypes.c_int64()
        self._require(
            self._predict_rows(
                self._handle, matrix.ctypes.data, self._kind, rows, self._width, 1, _CONTRIBUTIONS, 0, _ALL_TREES,
                PARAMETERS, ctypes.byref(written), found.ctypes.data,
            )
        )  # fmt: skip
        if written.value != found.size:
            raise ValueError(f"LightGBM gives {written.value} contributions, not {found.size}")
        return found if self._columns == 1 else found.reshape(rows, self._columns, self._width + 1)


def open_trees(content: bytes, signature: Signature) -> Any:
    """Return the trees of a text that `Booster.save_model` wrote. Raises OSError without the library, ValueError."""
    check_text(content)
    return ExplainedTrees(content, signature)
