"""The stored state of a stream view: one value an entity, read by windows, and changed by events. Little-endian.

    0   layout u8 | flags u8 | 0 u16 | schema id u32     the stamp, as a packed row has it
    8   the entity's check i64
    16  the horizon i64 ns: older events are in tiles     24  written i64 ns     since the epoch
    32  tiles u32 | events u32 | changes u31, and whether history is counted in | bytes of the ids u32
    48  for each ledger (distinct.py): how many values u32
        tiles: time u32 s, then the fields of every lane but those of ledgers
        events: time i64 ns, the id's check i64, then the fields of every lane
        ids that are texts: a length u16 for each event, then the texts, UTF-8
        values of each ledger: time u32 s, hash u32, depth u8

Times in seconds are before the horizon, by less than 2^32 s, and stored without what is over 32 bits.
Nothing of it is a value that is served: that depends on the event it is asked for (windows.py).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from tailrace.deadline import NS_PER_S
from tailrace.features.distinct import Ledger
from tailrace.features.events import TIME_NS_MAX
from tailrace.features.lanes import Columns
from tailrace.features.windows import Entries, WindowSet

STATE_LAYOUT: Final = 2
"""Differs from that of packed rows: one is never read for the other."""
HEAD: Final = np.dtype([
    ("stamp", "<u8"), ("entity", "<i8"), ("horizon", "<i8"), ("written", "<i8"),
    ("tiles", "<u4"), ("events", "<u4"), ("changes", "<u4"), ("id_bytes", "<u4"),
])  # fmt: skip
HEAD_BYTES: Final = HEAD.itemsize
FILLED: Final = np.uint32(1 << 31)
"""Of `changes`: the entity's history is counted in, and must not be once more."""
EVENTS_MAX: Final = 4_096
"""Events of one entity that are kept apart; of more, the oldest go into tiles before their time, and an event that
comes later than that is refused as late."""

_VALUE: Final = np.dtype([("at", "<u4"), ("hash", "<u4"), ("depth", "u1")])
_SECONDS_MAX: Final = 2**32 - 1


class States(msgspec.Struct, eq=False):
    """Some entities' states. heads: of dtype `HEAD`, an empty one where nothing is known. tiles, events: their entries.

    checks: of the events' ids. found: which entities have a state. errors: how many stored values were refused.
    """

    heads: NDArray[Any]
    tiles: Entries
    events: Entries
    checks: NDArray[np.int64]
    found: NDArray[np.bool_]
    errors: NDArray[np.bool_]


class StateLayout:
    """Packs and unpacks states. windows: of the view. schema_id: of what is kept. has_text_ids: of the stream."""

    def __init__(self, windows: WindowSet, schema_id: int, *, has_text_ids: bool) -> None:
        self.windows = windows
        self.stamp = STATE_LAYOUT | schema_id << 32
        self.has_text_ids = has_text_ids
        self._names = [_field_names(lane, len(use.lane.fields)) for lane, use in enumerate(windows.lanes)]
        in_ledgers = {distinct.lane for distinct in windows.distincts}
        self._tile_names = [() if lane in in_ledgers else names for lane, names in enumerate(self._names)]
        kinds = {
            name: kind
            for use, own in zip(windows.lanes, self._names, strict=True)
            for name, kind in zip(own, use.lane.fields, strict=True)
        }
        in_tiles = [name for names in self._tile_names for name in names]
        self._tile = np.dtype([("at", "<u4"), *((name, kinds[name]) for name in in_tiles)])
        self._event = np.dtype([("at", "<i8"), ("check", "<i8"), *kinds.items()])
        self._head = np.dtype([*HEAD.descr, ("values", "<u4", (len(in_ledgers),))]) if in_ledgers else HEAD
        self._unknown = np.zeros(1, self._head)
        self._unknown["horizon"] = -TIME_NS_MAX

    @property
    def tile_bytes(self) -> int:
        """Of one tile."""
        return self._tile.itemsize

    @property
    def event_bytes(self) -> int:
        """Of one event, without its id's text."""
        return self._event.itemsize

    @property
    def lane_offsets(self) -> list[int]:
        """Where the fields of each lane begin, behind a tile's time, or an event's time and check."""
        first = np.dtype("<u4").itemsize
        return [self._tile.fields[names[0]][1] - first if names else 0 for names in self._tile_names]  # type: ignore[index]

    def unpack(self, checks: Sequence[int], stored: Sequence[bytes | None]) -> States:
        """Return the states of some entities from what is stored. Raises nothing for what that holds."""
        head_bytes = self._head.itemsize
        right = [value is not None and len(value) >= head_bytes for value in stored]
        empty = bytes(head_bytes)
        parts = [value[:head_bytes] if each else empty for value, each in zip(stored, right, strict=True)]  # type: ignore[index]
        heads = np.frombuffer(bytearray(b"".join(parts)), self._head)
        lengths = np.array([0 if value is None else len(value) for value in stored], np.int64)
        tile_ends = head_bytes + heads["tiles"].astype(np.int64) * self._tile.itemsize
        event_ends = tile_ends + heads["events"].astype(np.int64) * self._event.itemsize
        wanted = event_ends + heads["id_bytes"]
        if self.windows.distincts:
            wanted = wanted + heads["values"].sum(axis=1, dtype=np.int64) * _VALUE.itemsize
        is_known = np.array([value is not None for value in stored], np.bool_)
        found = (heads["stamp"] == self.stamp) & (heads["entity"] == checks) & (lengths == wanted)
        found &= self._has_ids(stored, event_ends.tolist(), heads, found)
        heads[~found] = self._unknown[0]
        rows = zip(stored, tile_ends.tolist(), event_ends.tolist(), found.tolist(), strict=True)
        known = [
            (value, tile_end, event_end) for value, tile_end, event_end, each in rows if each and value is not None
        ]
        tiles = np.frombuffer(b"".join([value[head_bytes:end] for value, end, _ in known]), self._tile)
        events = np.frombuffer(b"".join([value[begin:end] for value, begin, end in known]), self._event)
        ids: NDArray[Any] = events["check"]
        if self.has_text_ids:
            ids = _unpack_texts([value[end:] for value, _, end in known], heads["events"][found].tolist())
        tiles_at = _times(tiles["at"], np.repeat(heads["horizon"], heads["tiles"]))
        sealed = self._entries(heads["tiles"], tiles_at, None, tiles, self._tile_names)
        sealed.ledgers = self._ledgers(heads, found, [value[end:] for value, _, end in known])
        return States(
            heads,
            sealed,
            self._entries(heads["events"], events["at"], ids, events, self._names),
            events["check"],
            found,
            is_known & ~found,
        )

    def _entries(
        self, counts: NDArray[Any], at: NDArray[Any], ids: NDArray[Any] | None, data: NDArray[Any],
        names: Sequence[Sequence[str]],
    ) -> Entries:  # fmt: skip
        bounds = _bounds(counts)
        lanes = [
            [data[name] for name in own] or [np.zeros(len(data), np.uint32)]  # of a lane that has a ledger: nothing
            for own in names
        ]
        return Entries(bounds[:-1], bounds[1:], at, ids, lanes)

    def _ledgers(self, heads: NDArray[Any], found: NDArray[np.bool_], tails: Sequence[bytes]) -> list[Ledger]:
        """Return the ledgers. tails: of the states that were found, what is behind the events."""
        ledgers = []
        begins = heads["id_bytes"][found].astype(np.int64)
        for place in range(len(self.windows.distincts)):
            counts = heads["values"][:, place]
            ends = begins + counts[found].astype(np.int64) * _VALUE.itemsize
            parts = [tail[begin:end] for tail, begin, end in zip(tails, begins.tolist(), ends.tolist(), strict=True)]
            data = np.frombuffer(b"".join(parts), _VALUE)
            at, bounds = _times(data["at"], np.repeat(heads["horizon"], counts)), _bounds(counts)
            ledgers.append(Ledger(bounds[:-1], bounds[1:], at, data["hash"], data["depth"]))
            begins = ends
        return ledgers

    def _has_ids(
        self, stored: Sequence[bytes | None], ends: Sequence[int], heads: NDArray[Any], found: NDArray[np.bool_]
    ) -> NDArray[np.bool_]:
        """Return which values have an id for each event where ids are texts, and none where they are not.

        ends: where each value's ids begin; only where `found` is a value's length what its head says.
        """
        whole: NDArray[np.bool_] = heads["id_bytes"] == 0
        if not self.has_text_ids:
            return whole
        counts, id_bytes = heads["events"].tolist(), heads["id_bytes"].tolist()
        whole = np.zeros(len(heads), np.bool_)
        for row in np.flatnonzero(found).tolist():
            value, end = stored[row], 2 * counts[row]
            if value is not None and end <= id_bytes[row]:
                lengths = np.frombuffer(value, "<u2", counts[row], ends[row]) if end else np.zeros(0)
                whole[row] = end + int(lengths.sum()) == id_bytes[row]
        return whole

    def pack(self, heads: NDArray[Any], tiles: Entries, events: Entries, checks: NDArray[np.int64]) -> list[bytes]:
        """Return the value of each entity. heads: with horizon, entity and changes; the counts are put in here."""
        heads = heads.copy()
        heads["stamp"] = self.stamp
        heads["tiles"], heads["events"] = tiles.ends - tiles.begins, events.ends - events.begins
        texts = [b""] * len(heads)
        if self.has_text_ids:
            assert events.ids is not None
            ids = events.ids.tolist()
            texts = [_pack_texts(ids[begin:end])
                     for begin, end in zip(events.begins.tolist(), events.ends.tolist(), strict=True)]  # fmt: skip
            heads["id_bytes"] = list(map(len, texts))
        for place, ledger in enumerate(tiles.ledgers):
            heads["values"][:, place] = ledger.ends - ledger.begins
        seconds = _seconds(tiles.at, np.repeat(heads["horizon"], heads["tiles"]))
        packed = [
            _sliced(heads.tobytes(), np.arange(len(heads) + 1), self._head.itemsize),
            _sliced(_records(self._tile, self._tile_names, seconds, tiles.lanes),
                    np.append(tiles.begins, len(tiles)), self._tile.itemsize),
            _sliced(_records(self._event, self._names, events.at, events.lanes, checks),
                    np.append(events.begins, len(events)), self._event.itemsize),
            texts,
            *(_packed_ledger(ledger, heads["horizon"]) for ledger in tiles.ledgers),
        ]  # fmt: skip
        return list(map(b"".join, zip(*packed, strict=True)))


def _field_names(lane: int, count: int) -> tuple[str, ...]:
    return tuple(f"{lane}.{place}" for place in range(count))


def _bounds(counts: NDArray[Any]) -> NDArray[np.intp]:
    """Return where each entity's entries begin, and where the last one's end."""
    return np.concatenate(([0], np.cumsum(counts, dtype=np.intp)))


def _records(
    dtype: np.dtype[Any], names: Sequence[Sequence[str]], at: NDArray[Any], lanes: Sequence[Columns],
    checks: NDArray[np.int64] | None = None,
) -> bytes:  # fmt: skip
    data = np.zeros(len(at), dtype)
    data["at"] = at
    if checks is not None:
        data["check"] = checks
    for own, columns in zip(names, lanes, strict=True):
        for name, column in zip(own, columns, strict=False):  # a tile has none of a lane that has a ledger
            data[name] = column
    return data.tobytes()


def _packed_ledger(ledger: Ledger, horizons_ns: NDArray[np.int64]) -> list[bytes]:
    data = np.zeros(len(ledger), _VALUE)
    data["at"] = _seconds(ledger.at, np.repeat(horizons_ns, ledger.ends - ledger.begins))
    data["hash"], data["depth"] = ledger.hashes, ledger.depths
    return _sliced(data.tobytes(), np.append(ledger.begins, len(ledger)), _VALUE.itemsize)


def _sliced(block: bytes, bounds: NDArray[np.intp], size: int) -> list[bytes]:
    """Return the part of each entity. bounds: of records of so many bytes."""
    return [block[begin:end] for begin, end in itertools.pairwise((bounds * size).tolist())]


def _seconds(at_ns: NDArray[np.int64], horizons_ns: NDArray[np.int64]) -> NDArray[np.uint32]:
    """Return times before a horizon as they are stored."""
    seconds = np.maximum(at_ns // NS_PER_S, horizons_ns // NS_PER_S - _SECONDS_MAX)
    return (seconds & _SECONDS_MAX).astype(np.uint32)


def _times(seconds: NDArray[np.uint32], horizons_ns: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return stored times in ns since the epoch."""
    horizons_s = horizons_ns // NS_PER_S
    return (horizons_s - ((horizons_s - seconds) & _SECONDS_MAX)) * NS_PER_S


def _pack_texts(ids: list[bytes]) -> bytes:
    return np.array(list(map(len, ids)), "<u2").tobytes() + b"".join(ids)


def _unpack_texts(packed: Sequence[bytes], counts: Sequence[int]) -> NDArray[Any]:
    """Return the ids of all entities' events."""
    ids: list[bytes] = []
    for value, count in zip(packed, counts, strict=True):
        end = 2 * count
        for length in np.frombuffer(value[:end], "<u2").tolist():
            ids.append(value[end : end + length])
            end += length
    return np.array(ids or [b""], "S")[: len(ids)]
