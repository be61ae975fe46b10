"""Columns to a model's inputs: one array a tensor, filled by as few copies as the columns allow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tailrace.batch import Batch
from tailrace.readers import Reader


class Assembler:
    """Fills one tensor, the input `name` of a model, of shape (rows, features) from column readers.

    parts: for each run of neighbouring inputs, how many they are and what reads them. A view's columns of one type
    are beside each other in its packed rows, so a whole view is usually one strided copy (bench/layers.py).
    """

    def __init__(self, name: str, dtype: np.dtype[Any], parts: Sequence[tuple[int, Reader]]) -> None:
        self.name = name
        self._dtype = dtype
        self._parts: list[tuple[tuple[slice, int | slice], Callable[[Batch], Any]]] = []
        start = 0
        for width, reader in parts:
            self._parts.append(((slice(None), slice(start, start + width) if width > 1 else start), reader.read))
            start += width
        self._width = start

    def fill(self, batch: Batch) -> NDArray[Any]:
        """Return the tensor of a batch, in C order."""
        tensor = np.empty((batch.rows, self._width), self._dtype)
        for where, read in self._parts:
            tensor[where] = read(batch)
        return tensor
