"""Events into a store of this process: for tests of pipelines, and for a writer's own thread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tailrace.deadline import Clock
from tailrace.features.stores.protocol import StoreWriter
from tailrace.features.streams import Stream, StreamViewSpec
from tailrace.features.updates import Fate
from tailrace.ingest.applier import Applier
from tailrace.ingest.decoded import DecodedEvents
from tailrace.pipeline import Pipeline, is_event_of, stream_views


class LocalEvents:
    """The streams of a pipeline, counted in where they come. suspends: never."""

    suspends: Final = False

    def __init__(self, pipeline: Pipeline, writer: StoreWriter, clock: Clock) -> None:
        views: dict[Stream, list[StreamViewSpec]] = {}
        for view in stream_views(pipeline):
            if view.spec.problems:
                continue  # compiling tells of them
            views.setdefault(view.spec.stream, []).append(view.spec)
        self._appliers = {stream: Applier(stream, own, writer, clock) for stream, own in views.items()}
        self._decoded = {stream: DecodedEvents(stream) for stream in views}
        self._recorded = [stream for stream in views if is_event_of(pipeline, stream)]

    def apply(self, stream: Stream, events: Sequence[Any]) -> NDArray[np.uint8]:
        """Count events of a stream in, decoded to its schema; return the fate of each. Raises KeyError, StoreError."""
        return self._appliers[stream].apply(self._decoded[stream].columns(events))

    async def record(self, requests: Any, deadline_ns: int) -> NDArray[np.bool_] | None:
        """Have requests counted as events; see `EventSink`."""
        lost = np.zeros(len(requests), np.bool_)
        for stream in self._recorded:
            lost |= self.apply(stream, requests) > Fate.DUPLICATE
        return lost if lost.any() else None
