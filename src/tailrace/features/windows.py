"""Windows: where they are computed, for serving, replay and training alike.

What is kept of an entity is a row of entries in the order of their events. Young events have an entry each, which
carries the event's time and id. Once no older event is accepted any more, entries are merged, in tiles that no window
will ever begin within:

      tiles (sealed)                                   events
    |··········|·····|··|··|··|·|·|·|·|·|·|·|·|·|·|  | | || |    | |  <- now: the event asked for
    |<- hop of the longest ->|<- of a shorter one ->|
                              [                                  )    a window: floor(now - W, hop) <= t < now

A window begins at a multiple of its hop, a sixtieth of it, and ends right before the event asked for, by (time, id).
So a tile is as wide as the shortest hop of all windows that may still begin within it; an entry older than all windows
is dropped. Nothing is decided when an event comes: a window decays as time passes, without any event.

The rule is `WindowSet`'s here. windows.c is the same rule compiled, for serving (window_kernel.py), where NumPy's fixed
cost would be most of what a small batch takes; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from tailrace.deadline import NS_PER_S
from tailrace.features.aggregates import KINDS
from tailrace.features.distinct import DistinctLane, Ledger, count_distinct, distinct_of_ranges
from tailrace.features.events import EventIds, Events
from tailrace.features.expressions import Expression
from tailrace.features.lanes import Columns, Lane
from tailrace.features.ranges import Places, Searcher, gallop, spread

HOPS: Final = 60
"""Of one window."""


@dataclass(frozen=True, slots=True)
class Window:
    """Which events count for a row: those from `begin` on. length_ns: None for a window without a beginning."""

    length_ns: int | None
    delay_ns: int = 0

    @property
    def hop_ns(self) -> int:
        """What its beginning is a multiple of: a sixtieth, in whole seconds, at least one."""
        length_s = (self.length_ns or 0) // NS_PER_S
        return max(1, -(-length_s // HOPS)) * NS_PER_S

    def begin(self, now_ns: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return when the window of each row begins."""
        if self.length_ns is None:
            return np.full(len(now_ns), np.iinfo(np.int64).min)
        hop_ns = self.hop_ns
        return (now_ns - self.delay_ns - self.length_ns) // hop_ns * hop_ns


@dataclass(frozen=True, slots=True)
class LaneUse:
    """A lane of a view: of which expression, and of which events."""

    lane: Lane
    value: Expression | None
    where: Expression | None


@dataclass(frozen=True, slots=True)
class WindowFeature:
    """One column of a view. window, lanes: their places in the view's."""

    name: str
    kind: str
    window: int
    lanes: tuple[int, ...]
    include_current: bool
    default: Any
    decimals: int | None


class Entries(msgspec.Struct, eq=False):
    """Entries of some entities, each one's side by side, in the order of their events.

    begins, ends: where each entity's are. at: the time of each entry's event, or of some event of its tile, int64 ns.
    ids: of the events; None for tiles. lanes: the columns of every lane. ledgers: of tiles, one for each of the lanes
    that tiles say nothing of.
    """

    begins: Places
    ends: Places
    at: NDArray[np.int64]
    ids: EventIds | None
    lanes: Sequence[Columns]
    ledgers: Sequence[Ledger] = ()

    def __len__(self) -> int:
        return len(self.at)

    @property
    def entities(self) -> NDArray[np.intp]:
        """The entity of each entry."""
        return np.repeat(np.arange(len(self.begins)), self.ends - self.begins)


@dataclass(frozen=True, slots=True)
class DistinctUse:
    """A lane whose distinct values are counted, and the windows that are asked of it. places: theirs in the view's."""

    lane: int
    windows: tuple[Window, ...]
    places: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class WindowSet:
    """The windows of one view: what is kept of its events, and what its columns are computed from.

    distincts: the lanes that have a ledger, in its place.
    """

    windows: tuple[Window, ...]
    lanes: tuple[LaneUse, ...]
    features: tuple[WindowFeature, ...]
    distincts: tuple[DistinctUse, ...] = field(init=False)

    def __post_init__(self) -> None:
        found = []
        for lane, use in enumerate(self.lanes):
            if isinstance(use.lane, DistinctLane):
                asked = tuple(sorted({feature.window for feature in self.features if lane in feature.lanes}))
                found.append(DistinctUse(lane, tuple(self.windows[place] for place in asked), asked))
        object.__setattr__(self, "distincts", tuple(found))

    @property
    def delay_ns(self) -> int:
        """The longest delay. What looks back from as much behind the horizon, or later, has every tile whole."""
        return max((window.delay_ns for window in self.windows), default=0)

    def prepare(self, events: Events) -> list[Columns]:
        """Return the columns of every lane, with an entry for each event."""
        rows = len(events)
        return [_prepare(use, events, rows) for use in self.lanes]

    def values(
        self, blocks: Sequence[Entries], now_ns: NDArray[np.int64], ids: EventIds | None, current: Events | None
    ) -> dict[str, NDArray[Any]]:
        """Return the value of every column for each row, (rows,): of row i from the entries of entity i.

        blocks: the entries, older ones first; a row's windows reach over all of them. now_ns, ids: of the event that
        each row is asked for; without an id its window ends before its time. current: that event, for columns that
        it counts for itself; None where there is none.
        """
        merged = self._merged(blocks, now_ns, ids)
        with_current = merged
        if current is not None and any(feature.include_current for feature in self.features):
            own = [_spread(columns, len(self.windows)) for columns in self.prepare(current)]
            with_current = [
                _join(use.lane, [one, other]) for use, one, other in zip(self.lanes, merged, own, strict=True)
            ]
            for place, distinct in enumerate(self.distincts):
                with_current[distinct.lane] = (self._distinct(place, blocks, now_ns, ids, own[distinct.lane][0]),)
        for place, distinct in enumerate(self.distincts):
            merged[distinct.lane] = (self._distinct(place, blocks, now_ns, ids, None),)
        rows = len(now_ns)
        found = {}
        for feature in self.features:
            kind, part = KINDS[feature.kind], slice(feature.window * rows, (feature.window + 1) * rows)
            lanes = with_current if feature.include_current else merged
            columns = [[column[part] for column in lanes[lane]] for lane in feature.lanes]
            values, is_nothing = kind.finalize(columns, feature.decimals, now_ns)
            found[feature.name] = np.where(is_nothing, feature.default, values)
        return found

    def _merged(self, blocks: Sequence[Entries], now_ns: NDArray[np.int64], ids: EventIds | None) -> list[Columns]:
        """Return one entry for each window and row, windows outermost."""
        parts = []
        for block in blocks:
            begins, ends = _ranges(self.windows, block, now_ns, ids)
            parts.append([use.lane.merge(columns, begins, ends)
                          for use, columns in zip(self.lanes, block.lanes, strict=True)])  # fmt: skip
        if len(parts) == 1:
            return parts[0]
        return [_join(use.lane, columns) for use, columns in zip(self.lanes, zip(*parts, strict=True), strict=True)]

    def _distinct(
        self, place: int, blocks: Sequence[Entries], now_ns: NDArray[np.int64], ids: EventIds | None,
        own: NDArray[np.uint32] | None,
    ) -> NDArray[np.int64]:  # fmt: skip
        """Return the distinct values of each window and row, windows outermost; of those that are not asked for, 0.

        own: the hash of the event that is asked for, for each window and row.
        """
        distinct, rows = self.distincts[place], len(now_ns)
        own = None if own is None else own[: len(distinct.windows) * rows]
        counts = np.zeros((len(self.windows), rows), np.int64)
        if len(blocks) == 1 and not blocks[0].ledgers:  # all events, each by itself, as a training set has them
            ranges = _ranges(distinct.windows, blocks[0], now_ns, ids)
            counted = distinct_of_ranges(blocks[0].lanes[distinct.lane][0], *ranges, own)
        else:
            counted = self._distinct_of_sources(place, blocks, now_ns, ids, own)
        counts[list(distinct.places)] = counted.reshape(-1, rows)
        return counts.reshape(-1)

    def _distinct_of_sources(
        self, place: int, blocks: Sequence[Entries], now_ns: NDArray[np.int64], ids: EventIds | None,
        own: NDArray[np.uint32] | None,
    ) -> NDArray[np.int64]:  # fmt: skip
        """Return the distinct values of ledgers and events, for the windows that are asked for."""
        distinct = self.distincts[place]
        count = len(distinct.windows) * len(now_ns)
        found = [] if own is None else [(np.arange(count), own, np.zeros(count, np.uint8))]
        ledgers = []
        for block in blocks:
            source = block.ledgers[place] if block.ledgers else block
            groups, places = spread(*_ranges(distinct.windows, source, now_ns, ids))
            if isinstance(source, Ledger):
                ledgers.append((groups, source.hashes[places], source.depths[places]))
            else:
                hashes = source.lanes[distinct.lane][0]
                found.append((groups, hashes[places], np.zeros(len(places), np.uint8)))
        parts = [np.concatenate(each) for each in zip(*found, *ledgers, strict=True)]  # what is sampled comes last
        return count_distinct(parts[0], parts[1], parts[2], count)

    def seal(self, entries: Entries, horizon_ns: NDArray[np.int64]) -> Entries:
        """Return entries merged to tiles as far as no window that is yet to be read begins within them.

        horizon_ns: for each entity, the earliest time that windows look back from. Entries beyond all windows go.
        """
        entities = entries.entities
        if not len(entries):
            return entries
        is_first = np.empty(len(entries), np.bool_)
        is_first[0], is_first[1:] = True, entities[1:] != entities[:-1]
        oldest_ns = np.full(len(horizon_ns), np.iinfo(np.int64).max)
        for window in set(self.windows):
            begin_ns = window.begin(horizon_ns)
            oldest_ns = np.minimum(oldest_ns, begin_ns)
            if window.length_ns is not None:
                hop = np.maximum(entries.at, begin_ns[entities] - 1) // window.hop_ns
                is_first[1:] |= hop[1:] != hop[:-1]
        firsts = np.flatnonzero(is_first)
        ends = np.append(firsts[1:], len(entries))
        at = entries.at[firsts]
        lanes = [use.lane.merge(columns, firsts, ends) for use, columns in zip(self.lanes, entries.lanes, strict=True)]
        kept = entries.at[ends - 1] >= oldest_ns[entities[firsts]]
        counts = np.bincount(entities[firsts][kept], minlength=len(horizon_ns))
        bounds = np.concatenate(([0], np.cumsum(counts)))
        return Entries(bounds[:-1], bounds[1:], at[kept], None, [[each[kept] for each in lane] for lane in lanes])

    def seal_values(self, ledgers: Sequence[Ledger], entries: Entries, horizon_ns: NDArray[np.int64]) -> list[Ledger]:
        """Return the ledgers with the values of entries that become tiles. horizon_ns: as for `seal`."""
        sealed = []
        for ledger, distinct in zip(ledgers, self.distincts, strict=True):
            oldest_ns = np.array([window.begin(horizon_ns) for window in distinct.windows]).min(axis=0)
            hashes = entries.lanes[distinct.lane][0]
            sealed.append(ledger.extended(entries.entities, entries.at, hashes, oldest_ns))
        return sealed


def _ranges(
    windows: Sequence[Window], block: Entries | Ledger, now_ns: NDArray[np.int64], ids: EventIds | None
) -> tuple[Places, Places]:
    """Return where the entries of each window begin and end in each row, windows outermost."""
    searcher = Searcher(block.at, block.begins, block.ends)
    delays = dict.fromkeys(window.delay_ns for window in windows)
    ends = {delay_ns: _ends(searcher, block, now_ns - delay_ns, ids) for delay_ns in delays}
    begins = [
        block.begins
        if window.length_ns is None
        else np.minimum(searcher.places(window.begin(now_ns)), ends[window.delay_ns])
        for window in windows
    ]
    return np.concatenate(begins), np.concatenate([ends[window.delay_ns] for window in windows])


def _ends(searcher: Searcher, block: Entries | Ledger, end_ns: NDArray[np.int64], ids: EventIds | None) -> Places:
    """Return where the entries before an event are at an end in each row. end_ns, ids: of the event."""
    ends = searcher.places(end_ns)
    if ids is not None and block.ids is not None and len(block):
        ties = gallop(block.at, ends, block.ends, end_ns + 1)  # of the same time: their ids decide
        if np.any(ties > ends):
            ends = gallop(block.ids, ends, ties, ids)
    return ends


def _prepare(use: LaneUse, events: Events, rows: int) -> Columns:
    counted = np.ones(rows, np.bool_) if use.where is None else use.where.column(events.field, rows).astype(np.bool_)
    values = np.zeros(rows)
    if use.value is not None:
        values = use.value.column(events.field, rows).astype(np.float64)
        counted = counted & np.isfinite(values)
    return use.lane.prepare(values, counted, events.times)


def _spread(columns: Columns, times: int) -> Columns:
    return [np.tile(column, times) for column in columns]


def _join(lane: Lane, parts: Sequence[Columns]) -> Columns:
    """Merge entries that follow each other: the first of every part, the second of every part, and so on."""
    columns = [np.stack(each, axis=1).reshape(-1) for each in zip(*parts, strict=True)]
    begins = np.arange(0, len(columns[0]), len(parts))
    return lane.merge(columns, begins, begins + len(parts))
