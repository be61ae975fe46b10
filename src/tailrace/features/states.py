"""The stored state of a stream view: one value an entity, read by windows, and changed by events. Little-endian.

    0   layout u8 | flags u8 | 0 u16 | schema id u32     the stamp, as a packed row has it
    8   the entity's check i64
    16  the horizon i64 ns: older events are in tiles     24  written i64 ns     since the epoch
    32  tiles u32 | events u32 | changes u32 | bytes of the ids u32
    48  tiles: time u32 s, then the fields of every lane
        events: time i64 ns, the id's check i64, then the fields of every lane
        ids that are texts: a length u16 for each event, then the texts, UTF-8

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
from tailrace.features.lanes import Columns
from tailrace.features.windows import Entries, WindowSet

STATE_LAYOUT: Final = 2
"""Differs from that of packed rows: one is never read for the other."""
HEAD: Final = np.dtype([
    ("stamp", "<u8"), ("entity", "<i8"), ("horizon", "<i8"), ("written", "<i8"),
    ("tiles", "<u4"), ("events", "<u4"), ("changes", "<u4"), ("id_bytes", "<u4"),
])  # fmt: skip
HEAD_BYTES: Final = HEAD.itemsize
EVENTS_MAX: Final = 4_096
"""Events of one entity that are kept apart; of more, the oldest go into tiles before their time, and an event that
comes later than that is refused as late."""


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
        names = [[f"{lane}.{place}" for place in range(len(use.lane.fields))] for lane, use in enumerate(windows.lanes)]
        fields = [
            (name, dtype)
            for use, own in zip(windows.lanes, names, strict=True)
            for name, dtype in zip(own, use.lane.fields, strict=True)
        ]
        self._names = names
        self._tile = np.dtype([("at", "<u4"), *fields])
        self._event = np.dtype([("at", "<i8"), ("check", "<i8"), *fields])

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
        return [self._tile.fields[names[0]][1] - first for names in self._names]  # type: ignore[index]

    def unpack(self, checks: Sequence[int], stored: Sequence[bytes | None]) -> States:
        """Return the states of some entities from what is stored. Raises nothing for what that holds."""
        right = [value is not None and len(value) >= HEAD_BYTES for value in stored]
        empty = bytes(HEAD_BYTES)
        parts = [value[:HEAD_BYTES] if each else empty for value, each in zip(stored, right, strict=True)]  # type: ignore[index]
        heads = np.frombuffer(bytearray(b"".join(parts)), HEAD)
        lengths = np.array([0 if value is None else len(value) for value in stored], np.int64)
        wanted = HEAD_BYTES + heads["tiles"].astype(np.int64) * self._tile.itemsize
        tile_ends = wanted.tolist()
        wanted = wanted + heads["events"].astype(np.int64) * self._event.itemsize
        event_ends = wanted.tolist()
        is_known = np.array([value is not None for value in stored], np.bool_)
        found = (heads["stamp"] == self.stamp) & (heads["entity"] == checks) & (lengths == wanted + heads["id_bytes"])
        found &= self._has_ids(stored, event_ends, heads, found)
        heads[~found] = np.zeros(1, HEAD)[0]
        rows = zip(stored, tile_ends, event_ends, found.tolist(), strict=True)
        known = [
            (value, tile_end, event_end) for value, tile_end, event_end, each in rows if each and value is not None
        ]
        tiles = np.frombuffer(b"".join([value[HEAD_BYTES:end] for value, end, _ in known]), self._tile)
        events = np.frombuffer(b"".join([value[begin:end] for value, begin, end in known]), self._event)
        ids: NDArray[Any] = events["check"]
        if self.has_text_ids:
            ids = _unpack_texts([value[end:] for value, _, end in known], heads["events"][found].tolist())
        return States(
            heads,
            self._entries(heads["tiles"], tiles["at"].astype(np.int64) * NS_PER_S, None, tiles),
            self._entries(heads["events"], events["at"], ids, events),
            events["check"],
            found,
            is_known & ~found,
        )

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

    def _entries(self, counts: NDArray[Any], at: NDArray[Any], ids: NDArray[Any] | None, data: NDArray[Any]) -> Entries:
        bounds = np.concatenate(([0], np.cumsum(counts, dtype=np.intp)))
        return Entries(bounds[:-1], bounds[1:], at, ids, [[data[name] for name in names] for names in self._names])

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
        packed_tiles = self._records(self._tile, tiles.at // NS_PER_S, tiles.lanes)
        packed_events = self._records(self._event, events.at, events.lanes, checks)
        bounds = [
            (each * size).tolist()
            for each, size in (
                (np.arange(len(heads) + 1), HEAD_BYTES),
                (np.append(tiles.begins, len(tiles)), self._tile.itemsize),
                (np.append(events.begins, len(events)), self._event.itemsize),
            )
        ]
        blocks = (heads.tobytes(), packed_tiles, packed_events)
        slices = [
            [block[begin:end] for begin, end in itertools.pairwise(each)]
            for block, each in zip(blocks, bounds, strict=True)
        ]
        return list(map(b"".join, zip(*slices, texts, strict=True)))

    def _records(
        self, dtype: np.dtype[Any], at: NDArray[np.int64], lanes: Sequence[Columns],
        checks: NDArray[np.int64] | None = None,
    ) -> bytes:  # fmt: skip
        data = np.zeros(len(at), dtype)
        data["at"] = at
        if checks is not None:
            data["check"] = checks
        for names, columns in zip(self._names, lanes, strict=True):
            for name, column in zip(names, columns, strict=True):
                data[name] = column
        return data.tobytes()


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
