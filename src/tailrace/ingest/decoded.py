"""Decoded events as columns: what a stream's schema says of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from tailrace.features.events import Events, event_ids, event_times
from tailrace.features.streams import Stream
from tailrace.request.columns import columns_type


class DecodedEvents:
    """Makes columns of the events of one stream that were decoded to its schema."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._columns = columns_type(stream.schema, None)

    def columns(self, decoded: Sequence[Any]) -> Events:
        """Return the columns of some events."""
        columns = self._columns(decoded, None)
        times = event_times(getattr(columns, self._stream.time))
        return Events(times, event_ids(getattr(columns, self._stream.id)), lambda name: getattr(columns, name))


def event_decoder(stream: Stream) -> msgspec.msgpack.Decoder[list[Any]]:
    """Return what decodes events as `EventSocket` sends them."""
    return msgspec.msgpack.Decoder(list[stream.schema])  # type: ignore[name-defined]
