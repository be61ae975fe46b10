"""Scores before and after, a fair sample of them where they are many."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

KEPT_MAX: Final = 100_000
QUANTILES: Final = (0.05, 0.5, 0.95)


class Changes:
    """Keeps pairs of scores: all of them up to `kept_max`, from there on each with the same chance.

    Algorithm R (Vitter, "Random sampling with a reservoir", 1985), a page at a time. The same rows give the same.
    """

    def __init__(self, kept_max: int = KEPT_MAX) -> None:
        self.seen = 0
        self._kept = np.empty((0, 2))
        self._kept_max = kept_max
        self._random = np.random.default_rng(0)

    def add(self, before: NDArray[np.float64], after: NDArray[np.float64]) -> None:
        """Take the scores of some rows, (rows,) each."""
        pairs = np.column_stack([before, after])
        room = self._kept_max - len(self._kept)
        self._kept = np.concatenate([self._kept, pairs[:room]])
        first = self.seen + min(room, len(pairs))
        self.seen += len(pairs)
        late = pairs[max(room, 0) :]
        places = (self._random.random(len(late)) * (np.arange(first, self.seen) + 1)).astype(np.intp)
        taken = places < self._kept_max
        self._kept[places[taken]] = late[taken]

    @property
    def pairs(self) -> NDArray[np.float64]:
        """What was kept, (rows, 2)."""
        return self._kept

    def quantiles(self) -> tuple[float, ...]:
        """Return the quantiles of after minus before; none without a row."""
        if not len(self._kept):
            return ()
        found = np.quantile(self._kept[:, 1] - self._kept[:, 0], QUANTILES)
        return tuple(map(float, found))
