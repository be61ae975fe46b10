"""One view's values for a batch, decoded: columns, and where each row's values come from."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tailrace.batch import Degraded, Provenance


class ViewRows(msgspec.Struct, eq=False):
    """The rows of one view, in the order of the ids asked for.

    data: structured array, shape (rows,), of the codec's dtype; every column filled in, with defaults where nothing
        is known. Maybe read-only. A column that is text is not in it, but in `strings`, by name.
    noted: uint8, shape (rows,), of `Provenance`; None where every row is fresh.
    nulls: bool, shape (rows, columns) in declared order, True where the stored row has no value and the default
        stands; None where every stored row is complete.
    degraded: uint8, shape (rows,), of `Degraded` bits; None where no row is degraded.
    errors: how many stored rows were refused: cut short, of another schema, or another entity's.
    """

    data: NDArray[Any]
    strings: dict[str, list[str]]
    noted: NDArray[np.uint8] | None = None
    nulls: NDArray[np.bool_] | None = None
    degraded: NDArray[np.uint8] | None = None
    errors: int = 0

    def __len__(self) -> int:
        return len(self.data)

    @property
    def provenance(self) -> NDArray[np.uint8]:
        """Where the values of each row come from."""
        return np.zeros(len(self.data), np.uint8) if self.noted is None else self.noted

    def mark_late(self, first: int) -> None:
        """Note that the store gave no row from the `first` on: what is there are defaults."""
        self.mark(slice(first, None), Provenance.TIMEOUT, Degraded.STORE_TIMEOUT)

    def mark(self, where: slice | list[int], provenance: Provenance, why: Degraded) -> None:
        """Note for some rows where their values come from, and why they are degraded."""
        self.noted = self.provenance
        self.noted[where] = provenance
        if self.degraded is None:
            self.degraded = np.zeros(len(self.data), np.uint8)
        self.degraded[where] |= np.uint8(why)

    def put(self, where: NDArray[np.intp], other: ViewRows) -> None:
        """Put the rows of another, of the same view, in place of some of these."""
        self.data[where] = other.data
        for name, texts in other.strings.items():
            own = self.strings[name]
            for place, text in zip(where.tolist(), texts, strict=True):
                own[place] = text
        self.noted = self.provenance
        self.noted[where] = other.provenance
        if other.nulls is not None:
            columns = other.nulls.shape[1]
            self.nulls = np.zeros((len(self.data), columns), np.bool_) if self.nulls is None else self.nulls
            self.nulls[where] = other.nulls
        if other.degraded is not None:
            self.degraded = np.zeros(len(self.data), np.uint8) if self.degraded is None else self.degraded
            self.degraded[where] = other.degraded
        self.errors += other.errors

    def column(self, name: str) -> NDArray[Any]:
        """Return one column, shape (rows,); of dtype object for text."""
        if name not in self.strings:
            return self.data[name]
        column = np.empty(len(self.data), dtype=object)
        column[:] = self.strings[name]
        return column
