"""What has come into a draft of the log since it was last read, without reading the rest again."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from tailrace.monitor.log.draft_lines import is_valid


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
                    self._schema = pa.ipc.read_schema(message)
                    self.offset = file.tell()
                    continue
                batch = pa.ipc.read_record_batch(message, self._schema)
                is_spoilt = not is_valid(batch)
                if is_spoilt and not over_damage:
                    return
                self.offset = file.tell()
                skipped = min(self._skipped, batch.num_rows)
                if is_spoilt:
                    continue
                self._skipped -= skipped
                if batch.num_rows > skipped:
                    yield batch.slice(skipped)


def _next(file: Any) -> Any:
    """Return the next message; None where it is not whole yet."""
    try:
        return pa.ipc.read_message(file)
    except (pa.ArrowException, EOFError, OSError):
        return None
