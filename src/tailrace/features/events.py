"""Events as columns: what windows are made of, and what they look back from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from tailrace.features.keys import entity_checks

EventIds = NDArray[Any]
"""The ids of events, by which those of one time are in order: int64, or texts as UTF-8 bytes (dtype S)."""

TIME_NS_MAX: Final = 3 << 61
"""How far from the epoch a time is, at most: until the year 2189. One beyond is taken as that, and what is no time as
the earliest, so that windows before it still fit 64 bits."""
ID_BYTES_MAX: Final = 255
"""Of a text id. A longer one has a digest in place of its end."""

_TIME_US_MAX: Final = TIME_NS_MAX // 1_000
_BEGIN_CHARS: Final = 40


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
    return np.array(list(map(_id_bytes, column.tolist())) or [b""], "S")[: len(column)]


def _id_bytes(event_id: str) -> bytes:
    """Return a text id in bytes; with a digest where it is too long, or an array of bytes would not hold it whole."""
    try:
        text = event_id.encode()
        if len(text) <= ID_BYTES_MAX and b"\0" not in text:
            return text
    except UnicodeEncodeError:  # half a surrogate pair
        text = event_id.encode("utf-8", "surrogatepass")
    begin = event_id[:_BEGIN_CHARS].encode("utf-8", "replace").partition(b"\0")[0]
    return begin + b"#" + hashlib.sha256(text).hexdigest().encode()


def event_checks(ids: EventIds) -> NDArray[np.int64]:
    """Return 64 bits of each id, by which an event is known when it comes again."""
    if ids.dtype.kind == "i":
        return ids
    texts = [each.decode("utf-8", "replace") for each in ids.tolist()]
    return np.array(entity_checks(texts), np.int64).reshape(-1)


def event_times(column: NDArray[Any]) -> NDArray[np.int64]:
    """Return the times in a column of the events, in ns since the epoch: of datetimes, or of numbers of seconds."""
    if column.dtype.kind == "M":
        micros = column.astype("datetime64[us]").view(np.int64)
    else:
        seconds = column.astype(np.float64)
        limit_s = _TIME_US_MAX / 1e6
        seconds = np.minimum(np.maximum(np.where(np.isnan(seconds), -limit_s, seconds), -limit_s), limit_s)
        micros = np.rint(seconds * 1e6).astype(np.int64)
    bounded: NDArray[np.int64] = np.minimum(np.maximum(micros, -_TIME_US_MAX), _TIME_US_MAX)  # np.clip takes 2 µs more
    return bounded * 1_000
