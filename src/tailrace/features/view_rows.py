"""One view's values for a batch, decoded: columns, and where each row's values come from."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


class ViewRows:
    """The rows of one view, in the order of the ids asked for.

    data: structured array, shape (rows,), of the codec's dtype; every column filled in, with defaults where nothing
        is known. Maybe read-only. A column that is text is not in it, but in `strings`, by name.
    provenance: uint8, shape (rows,), of `Provenance`; given as None where every row is fresh.
    nulls: bool, shape (rows, columns) in declared order, True where the stored row has no value and the default
        stands; None where every stored row is complete.
    degraded: uint8, shape (rows,), of `Degraded` bits; None where no row is degraded.
    errors: how many stored rows were refused: cut short, of another schema, or another entity's.
    """

    __slots__ = ("_provenance", "data", "degraded", "errors", "nulls", "strings")

    def __init__(
        self,
        data: NDArray[Any],
        strings: dict[str, list[str]],
        provenance: NDArray[np.uint8] | None = None,
        nulls: NDArray[np.bool_] | None = None,
        degraded: NDArray[np.uint8] | None = None,
        errors: int = 0,
    ) -> None:
        self.data = data
        self.strings = strings
        self._provenance = provenance
        self.nulls = nulls
        self.degraded = degraded
        self.errors = errors

    def __len__(self) -> int:
        return len(self.data)

    @property
    def all_fresh(self) -> bool:
        """Whether no value is stale or a default: of nearly every batch, so it is known without looking at the rows."""
        return self._provenance is None

    @property
    def provenance(self) -> NDArray[np.uint8]:
        """Where the values of each row come from."""
        return np.zeros(len(self.data), np.uint8) if self._provenance is None else self._provenance

    def column(self, name: str) -> NDArray[Any]:
        """Return one column, shape (rows,); of dtype object for text."""
        if name not in self.strings:
            return self.data[name]
        column = np.empty(len(self.data), dtype=object)
        column[:] = self.strings[name]
        return column
