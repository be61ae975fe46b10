"""What has come into a draft of the log since it was last read, without reading the rest again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from tailrace.monitor.log.files import is_valid


class DraftTail:
    """Reads a draft while it is written. offset: the bytes that were read; rows: the lines in them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offset = self.rows = 0
        self._schema: pa.Schema | None = None

    def read(self, skipped: int) -> Iterator[pa.RecordBatch]:
        """Give what is whole, without so many lines at its beginning. Raises FileNotFoundError for one that went."""
        with pa.OSFile(str(self.path)) as file:
            file.seek(self.offset)
            while (message := _next(file)) is not None:
                if self._schema is None:
                    self._schema = pa.ipc.read_schema(message)
                    self.offset = file.tell()
                    continue
                batch = pa.ipc.read_record_batch(message, self._schema)
                if not is_valid(batch):  # what is behind it is put aside with it, when the draft is sealed
                    return
                before, self.rows = self.rows, self.rows + batch.num_rows
                self.offset = file.tell()
                if self.rows > skipped:
                    yield batch.slice(max(skipped - before, 0))


def _next(file: pa.NativeFile) -> pa.Message | None:
    """Return the next message; None where it is not whole yet."""
    try:
        return pa.ipc.read_message(file)
    except (EOFError, pa.ArrowInvalid, OSError):
        return None
