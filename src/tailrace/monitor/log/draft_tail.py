"""What has come into a draft of the log since it was last read, without reading the rest again."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from tailrace.monitor.log.draft_lines import is_valid

_DAMAGE: Final = (pa.ArrowException, EOFError, OSError, UnicodeDecodeError)


class DraftTail:
    """Reads a draft while it is written, also when it has lost its name. skipped: lines at its beginning not to give.

    offset: the bytes that were read. Raises FileNotFoundError for one that is gone.
    """

    def __init__(self, path: Path, skipped: int = 0) -> None:
        self.offset = 0
        self._skipped = skipped
        self._schema: pa.Schema | None = None
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._descriptor)

    def read(self, *, over_damage: bool) -> Iterator[pa.RecordBatch]:
        """Give what is whole and was not given. over_damage: leave out lines that are spoilt; else stop before them."""
        with open(self._descriptor, "rb", closefd=False) as file:
            file.seek(self.offset)
            while (message := _next(file)) is not None:
                if self._schema is None:
                    if (schema := _schema_of(message)) is None:
                        return
                    self._schema = schema
                    self.offset = file.tell()
                    continue
                batch = _lines_of(message, self._schema)
                if batch is None and not over_damage:
                    return
                self.offset = file.tell()
                if batch is None:
                    continue
                skipped = min(self._skipped, batch.num_rows)
                self._skipped -= skipped
                if batch.num_rows > skipped:
                    yield batch.slice(skipped)


def _next(file: Any) -> Any:
    """Return the next message; None where it is not whole yet."""
    try:
        return pa.ipc.read_message(file)
    except _DAMAGE:
        return None


def _schema_of(message: Any) -> pa.Schema | None:
    """Return the schema that a draft begins with; None for a damaged one."""
    try:
        schema = pa.ipc.read_schema(message)
        return schema if schema.names else None  # which reads them
    except _DAMAGE:
        return None


def _lines_of(message: Any, schema: pa.Schema) -> pa.RecordBatch | None:
    """Return the lines of a message; None for damaged ones."""
    try:
        batch = pa.ipc.read_record_batch(message, schema)
    except _DAMAGE:
        return None
    return batch if is_valid(batch) else None
