"""What a row's way is chosen by: whether its entity is known, the hash of its id, the value of a field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tailrace.batch import Batch
from tailrace.inference.composition.shares import edges_of, positions, seed_of
from tailrace.readers import Reader


class ByProvenance:
    """Chooses 1 for the rows of which a reader says that their entity is unknown, else 0."""

    def __init__(self, unknown: Reader) -> None:
        self._read = unknown.read

    def branches(self, batch: Batch, picked: NDArray[np.intp] | None) -> NDArray[np.intp]:
        """Return the index of a member for each row."""
        unknown = self._read(batch)
        return (unknown if picked is None else unknown[picked]).astype(np.intp)  # type: ignore[no-any-return]


class ByHash:
    """Chooses by the share in which the hash of an id lies; see `shares`."""

    def __init__(self, ids: Reader, shares: Sequence[float], salt: str) -> None:
        self._read = ids.read
        self._edges = edges_of(shares)
        self._seed = seed_of(salt)

    def branches(self, batch: Batch, picked: NDArray[np.intp] | None) -> NDArray[np.intp]:
        """Return the index of a member for each row."""
        ids = self._read(batch)
        found = positions(ids if picked is None else ids[picked], self._seed)
        return self._edges.searchsorted(found, side="right")


class ByValue:
    """Chooses by the value of a column. members: of each value. default: for all others; None where there are none."""

    def __init__(self, column: Reader, members: Mapping[Any, int], default: int | None) -> None:
        self._read = column.read
        self._members = members
        self._default = default

    def branches(self, batch: Batch, picked: NDArray[np.intp] | None) -> NDArray[np.intp]:
        """Return the index of a member for each row. Raises KeyError for a value without one, where none is default."""
        column = self._read(batch)
        values = (column if picked is None else column[picked]).tolist()
        if self._default is None:
            return np.fromiter(map(self._members.__getitem__, values), np.intp, len(values))
        return np.fromiter(map(self._members.get, values, repeat(self._default)), np.intp, len(values))
