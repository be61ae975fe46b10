"""The codec of a batch view whose values Feast has written: they become packed rows, and are served as those are.

So a value that is stale, null, unknown or broken is told as it is of a view of Tailrace's own.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from tailrace.features.events import Events
from tailrace.features.feast.declaration import FeastView
from tailrace.features.feast.frames import Frames
from tailrace.features.feast.keys import FeastKeys
from tailrace.features.feast.values import reader_of
from tailrace.features.keys import EntityId, entity_checks
from tailrace.features.row_packer import RowPacker
from tailrace.features.rows import RowCodec
from tailrace.features.view_rows import ViewRows
from tailrace.features.view_spec import ViewSpec

_BROKEN = b""
"""In place of a row: it is none, and so is refused and counted."""


class FeastCodec:
    """Reads one view's frames. number: of the view in its store. key_version: of Feast's entity keys."""

    def __init__(self, spec: ViewSpec, view: FeastView, number: int, key_version: int) -> None:
        self.spec = spec
        self._rows = RowCodec(spec)
        self.blocks = self._rows.blocks
        self.schema_id = self._rows.schema_id
        self.defaults = self._rows.defaults
        self.keys = FeastKeys(view, number, key_version).keys
        self._unpack_frame = Frames(len(spec.columns)).unpack
        self._readers = [reader_of(column.dtype) for column in spec.columns]
        self._pack = RowPacker(spec).pack

    def unpack(
        self,
        ids: Sequence[EntityId],
        rows: Sequence[bytes | None],
        wall_ns: int,
        checks: list[int] | None = None,
        current: Events | None = None,
    ) -> ViewRows:
        """Return the values of each id from the frame found under its key; see `ViewCodec`."""
        if checks is None:
            checks = entity_checks(ids)
        packed = [
            None if row is None else self._row(key, row, check)
            for key, row, check in zip(self.keys(ids), rows, checks, strict=True)
        ]
        return self._rows.unpack(ids, packed, wall_ns, checks)

    def _row(self, key: bytes, frame: bytes, check: int) -> bytes:
        """Return the packed row of a frame, `_BROKEN` where it holds anything else than the entity's values."""
        try:
            event_ns, values = self._unpack_frame(key, frame)
            found = [read(value) for read, value in zip(self._readers, values, strict=True)]
            return self._pack(check, event_ns, found)
        except (ValueError, OverflowError, struct.error):
            return _BROKEN
