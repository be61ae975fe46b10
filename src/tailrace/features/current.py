"""The events that the rows of a batch are asked for: what their windows look back from."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tailrace.batch import Batch
from tailrace.deadline import Clock
from tailrace.features.events import Events, event_ids, event_times

_arrival_of = attrgetter("arrival_ns")


class EventSink(Protocol):
    """Takes requests that are events themselves.

    suspends: whether `record` may wait.
    """

    @property
    def suspends(self) -> bool:
        """Whether recording may wait for another process."""
        ...

    async def record(self, requests: Any, deadline_ns: int) -> NDArray[np.bool_] | None:
        """Have the requests counted as events; return which were not, None where all were.

        deadline_ns: monotonic; what is not known to be counted by then is not. Raises nothing.
        """
        ...


class CurrentEvents:
    """Reads the events of a batch for a view.

    time: the field that says when a request happened; None: when it came. event_id: the field of its id; None where the
    request is no event of the view's stream. expands: whether a row of the view is a row of the batch, and not a
    request. columns: makes the columns of requests that are not spread to rows; None where a request is a row.
    """

    def __init__(
        self,
        time: str | None,
        event_id: str | None,
        clock: Clock,
        columns: Callable[[Any, None], Any] | None,
        *,
        expands: bool,
    ) -> None:
        self._time = time
        self._id = event_id
        self._now_ns = clock.now_ns
        self._wall_ns = clock.wall_ns
        self._columns = columns
        self._expands = expands

    def read(self, batch: Batch) -> Events:
        """Return the event of each row."""
        spread = self._expands or self._columns is None
        columns = batch.request if spread or self._columns is None else self._columns(batch.requests, None)
        times = self._arrivals(batch) if self._time is None else event_times(getattr(columns, self._time))
        ids = None if self._id is None else event_ids(getattr(columns, self._id))
        return Events(times, ids, lambda name: getattr(columns, name))

    def _arrivals(self, batch: Batch) -> NDArray[np.int64]:
        """Return when each row's call came, in ns since the epoch."""
        ahead_ns = self._wall_ns() - self._now_ns()
        times = np.fromiter(map(_arrival_of, batch.calls), np.int64, len(batch.calls)) + ahead_ns
        if batch.offsets is not None:
            times = np.repeat(times, np.diff(batch.offsets))
        return times[batch.row_request] if self._expands and batch.row_request is not None else times
