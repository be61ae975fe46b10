"""The best rows of each request, where a request makes many: a list of candidates comes in, the first few go out."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import isnan
from operator import attrgetter
from typing import Any, cast

import numpy as np
from numpy import ndarray
from numpy.typing import NDArray

from tailrace.batch import Batch
from tailrace.readers import Reader


class BestRows:
    """Finds the rows that each request is answered with. top: how many at most; or the field that says how many."""

    def __init__(self, top: int | str) -> None:
        self._top = top if isinstance(top, int) else 0
        self._read = attrgetter(top) if isinstance(top, str) else None

    def find(self, batch: Batch) -> tuple[NDArray[np.intp], list[int]]:
        """Return the rows in the order of their scores, and where each request's begin among them; once a batch."""
        if batch.best_rows is None:
            bounds: list[int] = cast(NDArray[np.intp], batch.row_bounds).tolist()
            limits = list(map(self._read, batch.requests)) if self._read else [self._top] * len(batch.requests)
            found = [
                begin + best_places(batch.scores[begin:end], limit)
                for (begin, end), limit in zip(pairwise(bounds), limits, strict=True)
            ]
            begins = np.concatenate(([0], np.cumsum(list(map(len, found)), dtype=np.intp))).tolist()
            batch.best_rows = (np.concatenate([np.empty(0, np.intp), *found]), begins)
        return batch.best_rows

    def rows(self, batch: Batch) -> NDArray[np.intp]:
        """Return the rows that the requests are answered with."""
        return self.find(batch)[0]


class BestRowLists:
    """The values of a column for the best rows: a list for each request, in the order of their scores."""

    def __init__(self, reader: Reader, best: BestRows) -> None:
        self._read = reader.read
        self._find = best.find

    def of(self, batch: Batch) -> Sequence[Any]:
        """Return a list for each request."""
        rows, begins = self._find(batch)
        column = self._read(batch)
        values = column[rows].tolist() if type(column) is ndarray else [column[row] for row in rows.tolist()]
        return [values[begin:end] for begin, end in pairwise(begins)]


def best_places(scores: NDArray[Any], top: int) -> NDArray[np.intp]:
    """Return where the `top` highest scores are, the highest first; of equal ones the first comes first, NaN last."""
    falling = -scores
    if 0 < top < len(scores):
        least = falling[np.argpartition(falling, top - 1)[top - 1]]
        if not isnan(least):  # else there are fewer numbers than asked for
            above = (falling < least).nonzero()[0]
            level = (falling == least).nonzero()[0][: top - len(above)]
            picked: NDArray[np.intp] = np.sort(np.concatenate((above, level)))
            best: NDArray[np.intp] = picked[falling[picked].argsort(kind="stable")]
            return best
    return falling.argsort(kind="stable")[: max(top, 0)]
