"""A draft of the prediction log: an Arrow stream that lines are appended to, and its writer's lock."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

import pyarrow as pa


class Draft:
    """One draft. Raises OSError where it cannot be made; then there is none."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path = path
        self.schema = schema
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._file = os.fdopen(descriptor, "wb", buffering=0)
        self.bytes = self.rows = 0
        self._is_flushed = self._is_spoilt = False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # another server may have come first, and removed it
            self._append(schema.serialize())
            if not self.is_intact:
                raise FileNotFoundError(f"{path} was removed")
        except OSError:  # a disk that is full takes an empty file, one a second
            self._file.close()
            with suppress(OSError):
                path.unlink()
            raise

    @property
    def is_intact(self) -> bool:
        """Whether it is still there as it was written: nobody has removed, moved, cut or spoilt it."""
        try:
            found = os.stat(self.path)
            is_same = os.path.samestat(found, os.fstat(self._file.fileno()))
        except OSError:
            return False
        return is_same and found.st_size == self.bytes and not self._is_spoilt

    def write(self, batch: pa.RecordBatch) -> None:
        """Append lines. Raises OSError; then the file ends where it ended before, or is intact no longer."""
        self._append(batch.serialize())
        self.rows += batch.num_rows

    def flush(self) -> None:
        """Have all lines on the disk: a machine that fails takes none of them. Raises OSError."""
        if not self._is_flushed:
            try:
                os.fdatasync(self._file.fileno())
            except OSError:
                self._is_spoilt = True  # the kernel tells it once, and may have dropped what it could not write
                raise
            self._is_flushed = True

    def _append(self, message: pa.Buffer) -> None:
        """Append a message of the stream, or nothing."""
        before, data = self.bytes, memoryview(message)
        self._is_flushed = False
        while data:
            try:
                written = self._file.write(data) or 0
            except OSError:
                self._is_spoilt = True  # until what was written in part is away
                self._file.truncate(before)
                self._file.seek(before)
                self.bytes, self._is_spoilt = before, False
                raise
            self.bytes += written
            data = data[written:]

    def close(self) -> None:
        """Let go of it."""
        self._file.close()
