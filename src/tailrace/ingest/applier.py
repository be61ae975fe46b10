"""From events to states: one update of the store for all views and entities that a batch of events is about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from tailrace.deadline import NS_PER_S, Clock
from tailrace.errors import StoreError
from tailrace.features.catalogue import NEVER_NS, NOTHING_FROM_NS
from tailrace.features.events import Events
from tailrace.features.keys import TOMBSTONE, CompositeFormat, EntityId, KeyFormat, entity_checks, fields_of
from tailrace.features.stores.protocol import StoreWriter
from tailrace.features.streams import Stream, StreamViewSpec
from tailrace.features.updates import Fate, joined_fates, update_states
from tailrace.ingest.watermark import Behind, Watermark, read_watermark, watermark_key

_NO_BEGINS: Final[Mapping[str, int]] = MappingProxyType({})
FUTURE_NS: Final = 60 * NS_PER_S
"""How far an event's time may be ahead of this machine's clock."""


class Applier:
    """Counts the events of one stream in, in all of its views in one store. One thread at a time.

    Others may do so in the same store: each reads the watermark within its update. watermark: as far as it is known
    here; it never goes back. Raises StoreError where the store cannot be read or written; then no event is answered
    for, and may come again. begins_ns: by the name of a view, from which time on events are counted in it: older ones
    come to it from history. A view that is being removed is refused, since its events would be answered as counted.
    """

    def __init__(
        self,
        stream: Stream,
        views: Sequence[StreamViewSpec],
        writer: StoreWriter,
        clock: Clock,
        begins_ns: Mapping[str, int] = _NO_BEGINS,
    ) -> None:
        if removed := sorted(name for name, from_ns in begins_ns.items() if from_ns == NOTHING_FROM_NS):
            raise StoreError("the states of the view as it is declared are being removed",
                             where=f"features.{removed[0]}", next="wait until they are gone")  # fmt: skip
        self.stream = stream
        self._views = [_View(spec, begins_ns.get(spec.name, NEVER_NS)) for spec in views]
        self._writer = writer
        self._wall_ns = clock.wall_ns
        self._lateness_ns = stream.lateness_ns
        self.watermark = read_watermark(writer.get(watermark_key(stream.name)))
        self._reached_ns: dict[str, int] = {}

    def apply(
        self, events: Events, partition: str = "", partitions: Mapping[str, bool] | None = None
    ) -> NDArray[np.uint8]:
        """Count events in; return the fate of each, of `Fate`. What is counted is in the store when this returns.

        partition: that the events are of. partitions: of all that are read with it, whether more is to come; while
        there is, the watermark waits for it.
        """
        now_ns = self._wall_ns()
        fates = np.full(len(events), Fate.COUNTED, np.uint8)
        fates[events.times < self.watermark.at_ns - self._lateness_ns] = Fate.LATE
        fates[events.times > now_ns + FUTURE_NS] = Fate.FUTURE
        taken = np.flatnonzero(fates == Fate.COUNTED)
        if not len(taken):
            return fates
        chosen = _chosen(events, taken)
        progress = self._progress(chosen, partition, partitions or {}, now_ns)
        changes = _StateChanges(self.stream, self._views, chosen, self.watermark, progress, now_ns)
        self._writer.update(changes, changes.notes)
        self.watermark = changes.watermark
        fates[taken] = changes.fates
        return fates

    def _progress(
        self, events: Events, partition: str, partitions: Mapping[str, bool], now_ns: int
    ) -> dict[str, Behind | None]:
        """Return how far each partition that is behind has come with these events; None for one that is not."""
        progress: dict[str, Behind | None] = {}
        for name, is_behind in partitions.items():
            known = self._reached_ns.get(name, NEVER_NS)
            if name == partition:
                known = self._reached_ns[name] = max(known, int(events.times.max()))
            progress[name] = Behind(known, now_ns) if is_behind else None
        return progress


class _View:
    """One view, and where its states are."""

    def __init__(self, spec: StreamViewSpec, begins_ns: int) -> None:
        codec = spec.codec()
        self.begins_ns = begins_ns
        self._fields = fields_of(spec.key)
        self._format = spec.id_format()
        self.layout = codec.states
        self.keys = codec.keys
        self.tombstones = KeyFormat(spec.entity.name, TOMBSTONE).keys

    def entities(self, events: Events) -> tuple[list[EntityId], NDArray[np.intp]]:
        """Return the entities that events are about, each once, and which of them each event is of."""
        parts = [_entities(events.field(name)) for name in self._fields]
        return parts[0] if self._format is None else _combined(parts, self._format)


class _Part(NamedTuple):
    """A view's part of an update. begin: of its keys among all. checks: of its entities. rows: each event's entity."""

    view: _View
    begin: int
    checks: NDArray[np.int64]
    rows: NDArray[np.intp]


class _StateChanges:
    """What some events change in all views of their stream; see `Changes`.

    The watermark's key is the last of `keys`: it is read with the states, and written by a note when they are.
    watermark: as the applier knows it, then as it is after these events. progress: of the partitions.
    """

    def __init__(
        self,
        stream: Stream,
        views: Sequence[_View],
        events: Events,
        watermark: Watermark,
        progress: Mapping[str, Behind | None],
        now_ns: int,
    ) -> None:
        self.keys: list[bytes] = []
        self.tombstones: list[bytes] = []
        self.notes: list[tuple[bytes, bytes]] = []
        self.watermark = watermark
        self._known = watermark
        self._progress = progress
        self._events = events
        self._lateness_ns = stream.lateness_ns
        self._horizon_ns = 0
        self._is_late = np.zeros(len(events), np.bool_)
        self._now_ns = now_ns
        self._parts: list[_Part] = []
        for view in views:
            ids, rows = view.entities(events)
            self._parts.append(_Part(view, len(self.keys), np.array(entity_checks(ids), np.int64), rows))
            self.keys += view.keys(ids)
            self.tombstones += view.tombstones(ids)
        self.keys.append(watermark_key(stream.name))
        self.tombstones.append(watermark_key(stream.name) + TOMBSTONE.encode())  # never there
        self._fates = np.full((len(views), len(events)), Fate.COUNTED, np.uint8)

    @property
    def fates(self) -> NDArray[np.uint8]:
        """The fate of each event, over all views."""
        fates = joined_fates(self._fates)
        fates[self._is_late] = Fate.LATE
        return fates

    def values(
        self, places: Sequence[int], before: Sequence[bytes | None], forgotten: Sequence[bool]
    ) -> list[bytes | None]:
        """Return the new states at some places."""
        after: list[bytes | None] = [None] * len(places)
        if places and places[-1] == len(self.keys) - 1:
            self._advance(read_watermark(before[-1]))
        asked, is_forgotten = np.asarray(places), np.asarray(forgotten, np.bool_)
        for number, part in enumerate(self._parts):
            own = np.flatnonzero((asked >= part.begin) & (asked < part.begin + len(part.checks)))
            row_of = np.full(len(part.checks), -1, np.intp)
            alive = own[~is_forgotten[own]]
            self._forget(number, part, asked[own[is_forgotten[own]]])
            row_of[asked[alive] - part.begin] = np.arange(len(alive))
            rows = row_of[part.rows]
            taken = np.flatnonzero((rows >= 0) & ~self._is_late & (self._events.times >= part.view.begins_ns))
            if not len(taken):
                continue
            update = update_states(
                part.view.layout,
                part.checks[asked[alive] - part.begin].tolist(),
                [before[place] for place in alive.tolist()],
                rows[taken],
                _chosen(self._events, taken),
                horizon_ns=self._horizon_ns,
                written_ns=self._now_ns,
            )
            self._fates[number, taken] = update.fates
            for row in np.unique(rows[taken]).tolist():  # not one whose events all are late
                after[alive[row]] = update.values[row]
        return after

    def _advance(self, stored: Watermark) -> None:
        """Take the watermark from the store; see which events it makes late, and how far the others bring it.

        They move the horizon of the next update: requests that are events look back from within their own batch.
        """
        times = self._events.times
        known = self._known.joined(stored, self._now_ns)
        self._horizon_ns = known.at_ns - self._lateness_ns
        self._is_late = times < self._horizon_ns
        self.watermark = known.advanced(times[~self._is_late].tolist(), self._progress, self._now_ns)
        self.notes[:] = [(self.keys[-1], msgspec.json.encode(self.watermark))]

    def _forget(self, number: int, part: _Part, places: NDArray[np.intp]) -> None:
        if len(places):
            self._fates[number, np.isin(part.rows, places - part.begin)] = Fate.FORGOTTEN


def _entities(column: NDArray[Any]) -> tuple[list[EntityId], NDArray[np.intp]]:
    """Return the entities in a column, each once, and which of them each event is of."""
    if column.dtype.kind in "iu":
        ids, rows = np.unique(column, return_inverse=True)
        return ids.tolist(), rows
    places: dict[Any, int] = {}
    rows = np.array([places.setdefault(each, len(places)) for each in column.tolist()], np.intp)
    return list(places), rows


def _combined(
    parts: Sequence[tuple[list[EntityId], NDArray[np.intp]]], format_: CompositeFormat
) -> tuple[list[EntityId], NDArray[np.intp]]:
    """Return the entities of several columns, of what each column has: an id is made once for all of its events."""
    rows = parts[0][1]
    first = np.zeros(0, np.intp)
    for ids, places in parts[1:]:  # numbered anew each time, below the number of events: no product is over 64 bits
        _, first, rows = np.unique(rows * len(ids) + places, return_index=True, return_inverse=True)
    columns = [map(ids.__getitem__, places[first].tolist()) for ids, places in parts]
    return list(format_.ids(columns)), rows


def _chosen(events: Events, places: NDArray[np.intp]) -> Events:
    """Return the events at some places."""
    if len(places) == len(events):
        return events
    assert events.ids is not None
    return Events(events.times[places], events.ids[places], lambda name: events.field(name)[places])
