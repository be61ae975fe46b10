"""How events change the states of a stream view: each is counted once, in whatever order they come."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tailrace.deadline import NS_PER_S
from tailrace.features.events import Events, event_checks
from tailrace.features.lanes import Columns
from tailrace.features.states import EVENTS_MAX, FILLED, StateLayout, States
from tailrace.features.windows import Entries


class Fate(IntEnum):
    """What becomes of an event in one view, worst last."""

    COUNTED = 0
    DUPLICATE = 1
    """An event of its id is counted already."""
    LATE = 2
    """It is older than the entity's horizon."""
    FUTURE = 3
    """Its time is ahead of the clock."""
    FORGOTTEN = 4
    """Its entity is forgotten."""


def joined_fates(fates: Sequence[NDArray[np.uint8]] | NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return what becomes of events in several places: refused where one refuses, else counted where one counts.

    fates: in each place, of every event.
    """
    worst, best = np.max(fates, axis=0), np.min(fates, axis=0)
    joined: NDArray[np.uint8] = np.where(worst > Fate.DUPLICATE, worst, best)
    return joined


class Update(NamedTuple):
    """What events make of states. values: of every entity, what is to be stored. fates: of every event, of `Fate`."""

    values: list[bytes]
    fates: NDArray[np.uint8]


def update_states(
    layout: StateLayout,
    entities: Sequence[int],
    stored: Sequence[bytes | None],
    rows: NDArray[np.intp],
    events: Events,
    *,
    horizon_ns: int,
    written_ns: int,
) -> Update:
    """Return some entities' states with some events counted in.

    entities: the check of each entity, whose stored value is in `stored`; one that cannot be read begins anew.
    rows: the entity of each event. horizon_ns: older events are no longer accepted, from this update on.
    """
    assert events.ids is not None
    before = layout.unpack(entities, stored)
    checks = event_checks(events.ids)
    fates = np.full(len(events), Fate.COUNTED, np.uint8)
    fates[events.times < before.heads["horizon"][rows]] = Fate.LATE
    fates[_repeated(before, checks, rows, fates)] = Fate.DUPLICATE
    young = _with_new(layout, before, checks, rows, events, fates == Fate.COUNTED)
    heads = before.heads
    heads["entity"] = entities
    heads["changes"] += 1
    heads["written"] = written_ns
    heads["horizon"] = np.maximum(heads["horizon"], horizon_ns // NS_PER_S * NS_PER_S)
    heads["horizon"] = np.maximum(heads["horizon"], _crowded(young.entries))
    tiles, young = _seal(layout, before.tiles, young, heads["horizon"])
    return Update(layout.pack(heads, tiles, young.entries, young.checks), fates)


def fill_states(
    layout: StateLayout,
    entities: Sequence[int],
    stored: Sequence[bytes | None],
    rows: NDArray[np.intp],
    events: Events,
    *,
    begins_ns: int,
    written_ns: int,
) -> list[bytes | None]:
    """Return some entities' states with their history counted in; None for one whose history is in already.

    events: of before `begins_ns`, each once; what is stored is of later ones. The rest is as for `update_states`.
    """
    assert events.ids is not None
    before = layout.unpack(entities, stored)
    is_filled = before.heads["changes"] & FILLED != 0
    everything = np.ones(len(events), np.bool_)
    young = _with_new(layout, before, event_checks(events.ids), rows, events, everything)
    heads = before.heads
    heads["entity"] = entities
    heads["changes"] = (heads["changes"] + 1) | FILLED
    heads["written"] = written_ns
    heads["horizon"] = np.maximum(heads["horizon"], begins_ns)
    tiles, young = _seal(layout, before.tiles, young, heads["horizon"])
    values = layout.pack(heads, tiles, young.entries, young.checks)
    return [None if filled else value for filled, value in zip(is_filled.tolist(), values, strict=True)]


class _Young(NamedTuple):
    """Events that are kept apart, in order. checks: of their ids."""

    entries: Entries
    checks: NDArray[np.int64]


def _repeated(
    before: States, checks: NDArray[np.int64], rows: NDArray[np.intp], fates: NDArray[np.uint8]
) -> NDArray[np.intp]:
    """Return the places of the new events, not late, whose id the entity has already, or has in an earlier place."""
    places = np.flatnonzero(fates == Fate.COUNTED)
    known = before.events.entities
    all_rows, all_checks = np.concatenate((known, rows[places])), np.concatenate((before.checks, checks[places]))
    order = np.lexsort((all_checks, all_rows))  # stable: what is known comes first
    sorted_rows, sorted_checks = all_rows[order], all_checks[order]
    is_again = np.zeros(len(order), np.bool_)
    is_again[1:] = (sorted_rows[1:] == sorted_rows[:-1]) & (sorted_checks[1:] == sorted_checks[:-1])
    again = order[is_again] - len(known)
    return places[again[again >= 0]]


def _with_new(
    layout: StateLayout,
    before: States,
    checks: NDArray[np.int64],
    rows: NDArray[np.intp],
    events: Events,
    counted: NDArray[np.bool_],
) -> _Young:
    """Return the entities' events, new ones among them, each entity's in order."""
    assert events.ids is not None
    assert before.events.ids is not None
    old = before.events
    all_rows = np.concatenate((old.entities, rows[counted]))
    at = np.concatenate((old.at, events.times[counted]))
    ids = np.concatenate((before.events.ids, events.ids[counted]))
    order = np.lexsort((ids, at, all_rows))
    lanes = [
        [np.concatenate((one, other[counted]))[order] for one, other in zip(columns, prepared, strict=True)]
        for columns, prepared in zip(old.lanes, layout.windows.prepare(events), strict=True)
    ]
    entries = _entries(all_rows[order], len(before.heads), at[order], ids[order], lanes)
    return _Young(entries, np.concatenate((before.checks, checks[counted]))[order])


def _crowded(events: Entries) -> NDArray[np.int64]:
    """Return for each entity a horizon that leaves it no more than `EVENTS_MAX` events; the least time for most."""
    horizon_ns = np.full(len(events.begins), np.iinfo(np.int64).min)
    counts = events.ends - events.begins
    for row in np.flatnonzero(counts > EVENTS_MAX).tolist():
        begin, end = events.begins[row], events.ends[row]
        at = events.at[begin:end]
        cut_ns = int(at[-EVENTS_MAX]) // NS_PER_S * NS_PER_S
        is_over = np.count_nonzero(at >= cut_ns) > EVENTS_MAX  # with those of the same second
        horizon_ns[row] = cut_ns + is_over * NS_PER_S
    return horizon_ns


def _seal(layout: StateLayout, tiles: Entries, young: _Young, horizon_ns: NDArray[np.int64]) -> tuple[Entries, _Young]:
    """Move the events before the horizon into tiles; return the tiles, and the events that are left."""
    events = young.entries
    entities = events.entities
    is_old = events.at < horizon_ns[entities]
    ids = events.ids
    assert ids is not None
    all_rows = np.concatenate((tiles.entities, entities[is_old]))
    all_at = np.concatenate((tiles.at, events.at[is_old]))
    order = np.lexsort((all_at, all_rows))  # a tile is before an event, but for one of history
    at = all_at[order]
    lanes = [
        [np.concatenate((one, other[is_old]))[order] for one, other in zip(columns, own, strict=True)]
        for columns, own in zip(tiles.lanes, events.lanes, strict=True)
    ]
    windows = layout.windows
    sealed = windows.seal(_entries(all_rows[order], len(horizon_ns), at, None, lanes), horizon_ns)
    if windows.distincts:
        old_lanes = [[column[is_old] for column in columns] for columns in events.lanes]
        old = _entries(entities[is_old], len(horizon_ns), events.at[is_old], None, old_lanes)
        sealed.ledgers = windows.seal_values(tiles.ledgers, old, horizon_ns)
    left = ~is_old
    own_lanes = [[column[left] for column in columns] for columns in events.lanes]
    kept = _entries(entities[left], len(horizon_ns), events.at[left], ids[left], own_lanes)
    return sealed, _Young(kept, young.checks[left])


def _entries(
    rows: NDArray[np.intp], count: int, at: NDArray[np.int64], ids: NDArray[Any] | None, lanes: Sequence[Columns]
) -> Entries:
    """Return entries of so many entities, which are in the order of their rows."""
    bounds = np.concatenate(([0], np.cumsum(np.bincount(rows, minlength=count))))
    return Entries(bounds[:-1], bounds[1:], at, ids, lanes)
