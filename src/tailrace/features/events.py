"""Events as columns: what windows are made of, and what they look back from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tailrace.features.keys import entity_checks

EventIds = NDArray[Any]
"""The ids of events, by which those of one time are in order: int64, or texts as UTF-8 bytes (dtype S)."""


class Events(msgspec.Struct, eq=False):
    """Some events of one stream.

    times: int64 ns since the epoch, (rows,). ids: (rows,), each an event's own; None where the row that is asked for
    has no id. field: gives a field as a column, (rows,), of texts as dtype object.
    """

    times: NDArray[np.int64]
    ids: EventIds | None
    field: Callable[[str], NDArray[Any]]

    def __len__(self) -> int:
        return len(self.times)


def event_ids(column: NDArray[Any]) -> EventIds:
    """Return the ids in a column of the events: of whole numbers, or of texts."""
    if column.dtype.kind in "iu":
        return column.astype(np.int64)
    return np.array([str(each).encode("utf-8", "replace") for each in column.tolist()] or [b""], "S")[: len(column)]


def event_checks(ids: EventIds) -> NDArray[np.int64]:
    """Return 64 bits of each id, by which an event is known when it comes again."""
    if ids.dtype.kind == "i":
        return ids
    texts = [each.decode("utf-8", "replace") for each in ids.tolist()]
    return np.array(entity_checks(texts), np.int64).reshape(-1)


def event_times(column: NDArray[Any]) -> NDArray[np.int64]:
    """Return the times in a column of the events, in ns since the epoch: of datetimes, or of numbers of seconds."""
    if column.dtype.kind == "M":
        return column.astype("datetime64[ns]").view(np.int64)
    return np.rint(column.astype(np.float64) * 1e6).astype(np.int64) * 1_000
