"""The history of a stream view, counted into its states beside what comes: a changed view is whole afterwards.

    history, by entity and time --> events before the cut --> states, each once --> the catalogue: it is whole

The cut is the time from which events are counted as they come, never one that is to come itself. A state says itself
that its history is in, so that a run that was killed may be made again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from tailrace.deadline import NS_PER_S, parse_duration
from tailrace.errors import SourceError
from tailrace.features.catalogue import NEVER_NS, SchemaRecord, schema_name
from tailrace.features.events import Events, event_ids
from tailrace.features.keys import TOMBSTONE, KeyFormat, entity_checks
from tailrace.features.stores.protocol import StoreWriter
from tailrace.features.streams import StreamViewSpec
from tailrace.features.updates import fill_states
from tailrace.ingest.applier import FUTURE_NS
from tailrace.ingest.registration import first_begin_ns, note, register
from tailrace.ingest.watermark import CONFIRMED_BY, Watermark, read_watermark, watermark_key
from tailrace.offline.arrow_columns import to_array
from tailrace.offline.history import HistoryPart
from tailrace.offline.leasing import leased
from tailrace.offline.options import KEEP_OLD, WAIT
from tailrace.offline.retirement import clear, cut_anew, retire
from tailrace.offline.view_history import HistorySettings, StreamHistory

ENTITIES_TOGETHER = 1_000
"""Written by one update of the store."""


@dataclass(frozen=True, slots=True)
class BackfillReport:
    """What one run did. events: of the history, before the cut; entities: that have some.

    behind: events of the history behind the cut, which are counted as they come, by whoever counts into the view then.
    filled: entities whose history was counted in now; before: by an earlier run; forgotten: left out. bad: rows of the
    history that are no events; ahead: events that are ahead of the clock, left out. was_whole: whether there was
    no history to count in. retired: states of other definitions of the view, which nobody uses, that were removed.
    """

    view: str
    schema: str
    events: int
    behind: int
    entities: int
    filled: int
    before: int
    forgotten: int
    bad: int
    ahead: int
    was_whole: bool
    retired: int
    seconds: float


def backfill(
    spec: StreamViewSpec,
    settings: HistorySettings,
    writer: StoreWriter,
    *,
    pipeline: str,
    on_progress: Callable[[int, int], None] | None = None,
    wall_ns: Callable[[], int] = time.time_ns,
    keep_old_ns: int = parse_duration(KEEP_OLD),
    wait_ns: int = parse_duration(WAIT),
) -> BackfillReport:
    """Count the history of a view in, unless that is done; then remove its definitions that nobody uses.

    on_progress: is called with the rows dealt with, and how many there are. keep_old_ns: how long a definition stays
    once it is out of use. wait_ns: how long to wait while another run works on the view.
    Raises SetupError where the stream has no history, SourceError where it cannot be read or has no event before the
    cut, LeaseError while another run works on the view, StoreError for a store that cannot be written or has the view
    from elsewhere.
    """
    began_s = time.monotonic()
    with leased(writer, spec.name, wait_ns) as lease:
        own = register(spec, [pipeline], writer, wall_ns(), is_empty_whole=False)
        if own.is_mixed:
            own = clear(spec, own, writer, first_begin_ns(spec, writer))
        filling = None if own.is_whole else _fill(spec, own, settings, writer, on_progress, wall_ns)
        retired = retire(spec, writer, lease, keep_ns=keep_old_ns, now_ns=wall_ns())
    schema = schema_name(spec.schema_id)
    if filling is None:
        seconds = time.monotonic() - began_s
        return BackfillReport(spec.name, schema, 0, 0, 0, 0, 0, 0, 0, 0, True, retired, seconds)
    return BackfillReport(
        spec.name, schema, filling.events, filling.behind, filling.entities, filling.filled, filling.before,
        filling.forgotten, filling.bad, filling.ahead, False, retired, time.monotonic() - began_s,
    )  # fmt: skip


def _fill(
    spec: StreamViewSpec,
    own: SchemaRecord,
    settings: HistorySettings,
    writer: StoreWriter,
    on_progress: Callable[[int, int], None] | None,
    wall_ns: Callable[[], int],
) -> _Filling:
    """Count the history in, and note that the view is whole."""
    begins_ns = first_begin_ns(spec, writer)  # what comes while the history is read is not in it
    history = StreamHistory(spec, settings, None, None)
    with closing(history.history):
        counts = history.history.counts()
        now_ns = wall_ns()
        own = cut_anew(spec, own, writer, now_ns, begins_ns, lambda: _reached_ns(history, now_ns))
        if own.begins_ns == NEVER_NS:
            own = _cut_behind(spec, own, history, writer, now_ns)
        filling = _Filling(spec, history, writer, own.begins_ns, now_ns)
        filling.bad = counts.bad + counts.dropped
        done = 0
        for part in history.history.parts():
            filling.take(part)
            done += len(part.times)
            if on_progress:
                on_progress(done, counts.rows)
    if not filling.events:
        raise SourceError("the history has no event of before what is counted as it comes",
                          where=f"streams.{spec.stream.name}.source",
                          next="see whether it is the right one, and reaches back far enough")  # fmt: skip
    note(spec, msgspec.structs.replace(own, is_whole=True, at_ns=wall_ns(), whole_ns=wall_ns(), read=filling.events,
                                       entities=filling.entities, bad=filling.bad + filling.ahead), writer)  # fmt: skip
    return filling


def _cut_behind(
    spec: StreamViewSpec, own: SchemaRecord, history: StreamHistory, writer: StoreWriter, now_ns: int
) -> SchemaRecord:
    """Cut behind the history, of a stream of which no event has come yet: what comes later is late by the history.

    What is later than now cuts nothing off: events that come until then would be counted nowhere.
    """
    newest = _newest_ns(history, now_ns)
    if not newest:
        return own
    key = watermark_key(spec.stream.name)
    watermark = read_watermark(writer.get(key)).advanced(newest)
    own = msgspec.structs.replace(own, begins_ns=(newest[-1] // NS_PER_S + 1) * NS_PER_S)
    writer.exchange([(key, msgspec.json.encode(watermark))], ())
    note(spec, own, writer)
    return own


def _reached_ns(history: StreamHistory, now_ns: int) -> int:
    """Return how far a history reaches, as the watermark of its events: a row with a wrong date takes it nowhere."""
    return Watermark().advanced(_newest_ns(history, now_ns)).at_ns


def _newest_ns(history: StreamHistory, now_ns: int) -> list[int]:
    """Return the newest times of a history that are not later than now, as many as a watermark asks for, in order."""
    newest: NDArray[np.int64] = np.zeros(0, np.int64)
    for part in history.history.parts():
        newest = np.unique(np.concatenate((newest, part.times[part.times <= now_ns])))[-CONFIRMED_BY:]
    return [int(each) for each in newest]


class _Filling:
    """Counts the parts of a history in."""

    def __init__(
        self, spec: StreamViewSpec, history: StreamHistory, writer: StoreWriter, begins_ns: int, now_ns: int
    ) -> None:
        codec = spec.codec()
        self._layout = codec.states
        self._keys = codec.keys
        self._tombstones = KeyFormat(spec.entity.name, TOMBSTONE).keys
        self._id = spec.stream.id
        self._history = history
        self._writer = writer
        self._begins_ns = begins_ns
        self._now_ns = now_ns
        self.events = self.behind = self.bad = self.ahead = 0
        self.entities = self.filled = self.before = self.forgotten = 0

    def take(self, part: HistoryPart) -> None:
        """Count the events of some entities in, but for those that are further ahead than one that comes may be."""
        is_ahead = part.times > self._now_ns + FUTURE_NS
        self.ahead += int(np.count_nonzero(is_ahead))
        fields = {name: to_array(part.column(name), field) for name, field in self._history.fields.items()}
        ids = event_ids(fields[self._id])
        names = part.entities.to_pylist()
        for begin in range(0, len(names), ENTITIES_TOGETHER):
            chosen = slice(begin, begin + ENTITIES_TOGETHER)
            first, end = int(part.begins[chosen][0]), int(part.ends[chosen][-1])
            own = slice(first, end)
            rows = np.repeat(np.arange(len(part.begins[chosen])), (part.ends - part.begins)[chosen])
            is_before = (part.times[own] < self._begins_ns) & ~is_ahead[own]
            self.behind += int(np.count_nonzero(~is_before & ~is_ahead[own]))
            places = np.flatnonzero(is_before) + first
            events = Events(part.times[places], ids[places], lambda name, at=places: fields[name][at])  # type: ignore[misc]
            self._fill(names[chosen], rows[is_before], events)

    def _fill(self, names: Sequence[int | str], rows: NDArray[np.intp], events: Events) -> None:
        """Count the events of some entities in, in one update of the store."""
        has_events = np.bincount(rows, minlength=len(names)) > 0
        chosen = np.flatnonzero(has_events)
        ids = [names[place] for place in chosen.tolist()]
        if not ids:
            return
        row_of = np.cumsum(has_events) - 1
        changes = _HistoryChanges(self, ids, row_of[rows], events)
        self._writer.update(changes)
        self.events += len(events)
        self.entities += len(ids)
        self.before += changes.before
        self.forgotten += changes.forgotten
        self.filled += len(ids) - changes.before - changes.forgotten

    def keys(self, ids: Sequence[int | str]) -> tuple[list[bytes], list[bytes]]:
        """Return the keys of some entities' states and of their tombstones."""
        return self._keys(ids), self._tombstones(ids)

    def states(
        self, checks: Sequence[int], stored: Sequence[bytes | None], rows: NDArray[np.intp], events: Events
    ) -> list[bytes | None]:
        """Return the states with the events counted in."""
        return fill_states(
            self._layout, checks, stored, rows, events, begins_ns=self._begins_ns, written_ns=self._now_ns
        )


class _HistoryChanges:
    """What a history changes in the states of some entities; see `Changes`. before, forgotten: entities left as is."""

    def __init__(self, filling: _Filling, ids: Sequence[int | str], rows: NDArray[np.intp], events: Events) -> None:
        self.keys, self.tombstones = filling.keys(ids)
        self._filling = filling
        self._checks = np.array(entity_checks(ids), np.int64)
        self._rows = rows
        self._events = events
        self._is_before = np.zeros(len(ids), np.bool_)
        self._is_forgotten = np.zeros(len(ids), np.bool_)

    @property
    def before(self) -> int:
        """How many had their history already."""
        return int(np.count_nonzero(self._is_before))

    @property
    def forgotten(self) -> int:
        """How many are forgotten."""
        return int(np.count_nonzero(self._is_forgotten))

    def values(
        self, places: Sequence[int], before: Sequence[bytes | None], forgotten: Sequence[bool]
    ) -> Sequence[bytes | None]:
        """Return the new states at some places."""
        asked = np.asarray(places, np.intp)
        row_of = np.full(len(self.keys), -1, np.intp)
        row_of[asked] = np.arange(len(asked))
        rows = row_of[self._rows]
        taken = np.flatnonzero(rows >= 0)
        events = self._events
        assert events.ids is not None
        chosen = Events(events.times[taken], events.ids[taken], lambda name: events.field(name)[taken])
        values = self._filling.states(self._checks[asked].tolist(), before, rows[taken], chosen)
        self._is_before[asked] = [value is None for value in values]
        self._is_forgotten[asked] = forgotten
        self._is_before &= ~self._is_forgotten
        return [None if is_gone else value for is_gone, value in zip(forgotten, values, strict=True)]


def settings_of(base_dir: Path, key_types: dict[str, type], memory_mb: int, threads: int) -> HistorySettings:
    """Return how a history is read for a backfill."""
    from tailrace.offline.database import DatabaseLimits

    return HistorySettings(base_dir, key_types, DatabaseLimits(memory_mb, threads))
