"""The entities that a page of requests asks for, and which of its rows ask for each."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tailrace.features.ranges import Places

_BITS: Final = 62


class PageEntities:
    """Finds the rows of a page that ask for some entities.

    keys: of each row. times: of each row, int64 ns. asks: which rows ask for an entity at all, bool; None where all do.
    """

    def __init__(self, keys: NDArray[Any], times: NDArray[np.int64], asks: NDArray[np.bool_] | None = None) -> None:
        import pyarrow as pa

        self.asks = asks
        asking = None if asks is None else np.flatnonzero(asks)
        if asking is not None:
            keys, times = keys[asking], times[asking]
        encoded = pa.array(keys, pa.int64() if keys.dtype.kind in "iu" else pa.string()).dictionary_encode()
        codes = np.asarray(encoded.indices.to_numpy(), np.int64)
        self._entities = encoded.dictionary
        order = _order(codes, times)
        self._order = order if asking is None else asking[order]
        counts = np.bincount(codes, minlength=len(self._entities))
        self._begins = np.concatenate((np.zeros(1, np.intp), np.cumsum(counts)))

    def rows_of(self, entities: Any) -> tuple[Places, Places]:
        """Return the rows that ask for one of these entities, and which it is: entity by entity, by time.

        entities: an Arrow array, each once.
        """
        import pyarrow.compute as pc

        found = pc.index_in(entities, value_set=self._entities)
        places = np.flatnonzero(np.asarray(found.is_valid().to_numpy(zero_copy_only=False)))
        codes = np.asarray(found.drop_null().to_numpy(), np.intp)
        begins, lengths = self._begins[codes], self._begins[codes + 1] - self._begins[codes]
        before = np.cumsum(lengths) - lengths
        picked = np.repeat(begins - before, lengths) + np.arange(int(lengths.sum()))
        return self._order[picked], np.repeat(places, lengths)


def _order(codes: NDArray[np.int64], times: NDArray[np.int64]) -> Places:
    """Return the rows by entity, and by time as far as a key of 64 bits tells it: near in time is near in memory."""
    if not len(codes):
        return np.zeros(0, np.intp)
    low, high = int(times.min()), int(times.max())
    shift = max((high - low).bit_length() + int(codes.max() + 1).bit_length() - _BITS, 0)
    if high - low >= 1 << _BITS:
        return np.argsort(codes)
    return np.argsort(codes * (((high - low) >> shift) + 1) + ((times - low) >> shift))
