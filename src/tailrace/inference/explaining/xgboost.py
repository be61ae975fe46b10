"""XGBoost's own TreeSHAP, called as its C interface documents."""

from __future__ import annotations

import ctypes
import json
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tailrace.inference.backends.kernel import in_order
from tailrace.inference.backends.ubjson import decode_ubjson
from tailrace.inference.backends.xgboost import XgboostTrees
from tailrace.inference.backends.xgboost_trees import check_trees
from tailrace.inference.predictor import Feeds
from tailrace.inference.signature import Signature

_OPTIONS: Final = json.dumps(
    {"type": 2, "training": False, "iteration_begin": 0, "iteration_end": 0, "strict_shape": True}
).encode()  # fmt: skip
_MATRIX: Final = b'{"missing":NaN,"nthread":1}'


class ExplainedTrees(XgboostTrees):
    """Trees that say what each feature adds."""

    def contributions(self, feeds: Feeds) -> NDArray[np.float64]:
        """Return what each feature adds to the raw score, then the base; the GIL is released meanwhile."""
        matrix = in_order(feeds[self._name], np.dtype(np.float32), self._width)
        rows = len(matrix)
        where = b'{"data":[%d,true],"shape":[%d,%d],"typestr":"<f4","version":3}' % (
            matrix.ctypes.data, rows, self._width,
        )  # fmt: skip
        handle = ctypes.c_void_p()
        self._call("XGDMatrixCreateFromDense", where, _MATRIX, ctypes.byref(handle))
        try:
            shape, values = ctypes.POINTER(ctypes.c_uint64)(), ctypes.POINTER(ctypes.c_float)()
            dimensions = ctypes.c_uint64()
            self._call("XGBoosterPredictFromDMatrix", self._handle, handle, _OPTIONS, ctypes.byref(shape),
                       ctypes.byref(dimensions), ctypes.byref(values))  # fmt: skip
            wanted = (rows, self._columns, self._width + 1)
            if (found := tuple(shape[: dimensions.value])) != wanted:
                raise ValueError(f"XGBoost gives contributions of shape {found}, not {wanted}")
            whole = np.ctypeslib.as_array(values, wanted).astype(np.float64)  # a copy: the library's is used again
        finally:
            self._call("XGDMatrixFree", handle)
        return whole[:, 0] if self._columns == 1 else whole


def open_trees(content: bytes, signature: Signature) -> Any:
    """Return the trees that `Booster.save_raw("ubj")` wrote. Raises OSError without the library, ValueError."""
    check_trees(decode_ubjson(content))
    return ExplainedTrees(content, signature)
