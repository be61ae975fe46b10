"""Events counted once each, in every store that has views of their stream, whatever brings them.

What workers and brokers bring is counted apart from an event that cannot be; a file with one is to be mended.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from tailrace.features.events import Events
from tailrace.features.streams import Stream
from tailrace.features.updates import joined_fates
from tailrace.ingest.applier import Applier
from tailrace.ingest.decoded import DecodedEvents

EVENT_FAULTS: Final = (ValueError, TypeError, ArithmeticError, AttributeError, LookupError)
"""What the expressions of a view raise on what one event holds."""

Unit = TypeVar("Unit")


class StreamCounter:
    """Counts the events of one stream in, in all stores that have views of it. One thread at a time.

    appliers: one a store. What they raise, it raises: then some stores may have counted, and the events may come again.
    """

    def __init__(self, stream: Stream, appliers: Sequence[Applier]) -> None:
        self.stream = stream
        self._columns = DecodedEvents(stream).columns
        self._appliers = tuple(appliers)

    def count(
        self, events: Events, partition: str = "", partitions: Mapping[str, bool] | None = None
    ) -> NDArray[np.uint8]:
        """Count events in; return the fate of each, over all stores. The rest is as for `Applier.apply`."""
        if not len(events):
            return np.zeros(0, np.uint8)
        return joined_fates([applier.apply(events, partition, partitions) for applier in self._appliers])

    def count_decoded(
        self, events: Sequence[Any], partition: str = "", partitions: Mapping[str, bool] | None = None
    ) -> NDArray[np.uint8]:
        """Count events in that were decoded to the stream's schema, as `count` does."""
        return self.count(self._columns(events), partition, partitions)


def count_apart(
    units: Sequence[Unit], count: Callable[[Sequence[Unit]], NDArray[np.uint8]]
) -> list[tuple[Sequence[Unit], NDArray[np.uint8] | Exception]]:
    """Count units of events together; where one raises, their halves, until each that cannot be counted is alone.

    Returns the units in parts, in order, each with the fates of its events, or what the only unit in it raised.
    Raises what `count` raises, but for `EVENT_FAULTS`.
    """
    if not units:
        return []
    try:
        return [(units, count(units))]
    except EVENT_FAULTS as error:
        if len(units) == 1:
            return [(units, error)]
        half = len(units) // 2
        return [*count_apart(units[:half], count), *count_apart(units[half:], count)]
