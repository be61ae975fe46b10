"""The files of the prediction log: drafts that are written as it comes, and the Parquet files that they become.

    DIR/PIPELINE/2026-11-28T09/TIME-PID-N.parquet   whole, and never written again
    DIR/PIPELINE/2026-11-28T09/TIME-PID-N.arrows    a draft: an Arrow stream, of which only the end may be missing

Parquet has its index at its end: a file cut short is no file. An Arrow stream can be read up to where it is cut. So
lines go into a draft, and a draft becomes a Parquet file under another name, which is then given its own: there is
never half a one. It does so at its hour's end, or where it is large enough. A draft whose writer is gone is made one by
the next writer; its lock says that its writer lives.
"""

from __future__ import annotations

import fcntl
import inspect
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

DRAFT: Final = ".arrows"
SEALED: Final = ".parquet"
_UNNAMED: Final = ".part"
DRAFT_BYTES_MAX: Final = 64 << 20
"""A draft is sealed at this size, whatever the hour."""
GROUP_ROWS: Final = 65_536
"""Of a row group: what sealing holds in memory at once."""
ZSTD_LEVEL: Final = 3
BLOOM_FALSE_SHARE: Final = 0.01
"""Of the row groups without a request id that a reader looks into; it costs two bytes a line."""
_HAS_BLOOM_FILTERS: Final = "bloom_filter_options" in inspect.signature(pq.ParquetWriter.__init__).parameters
HOUR: Final = "%Y-%m-%dT%H"
"""How the folder of an hour is named, in UTC."""


class Draft:
    """One draft, and its writer's lock. Raises OSError where it cannot be made."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path = path
        self.schema = schema
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._file = os.fdopen(descriptor, "wb", buffering=0)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        self.bytes = self.rows = 0
        self._append(schema.serialize())

    def write(self, batch: pa.RecordBatch) -> None:
        """Append lines. Raises OSError; then the file ends where it ended before."""
        self._append(batch.serialize())
        self.rows += batch.num_rows

    def _append(self, message: pa.Buffer) -> None:
        """Append a message of the stream, or nothing."""
        before, data = self.bytes, memoryview(message)
        while data:
            try:
                written = self._file.write(data) or 0
            except OSError:
                self.bytes = before
                self._file.truncate(before)
                self._file.seek(before)
                raise
            self.bytes += written
            data = data[written:]

    def close(self) -> None:
        """Let go of it."""
        self._file.close()


class LogFiles:
    """The log of one pipeline under a directory. Every method may raise OSError, and all may be called again then."""

    def __init__(self, folder: Path, now_s: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._now_s = now_s
        self._draft: Draft | None = None
        self._hour = ""
        self._numbers = count()

    def write(self, batches: Iterable[pa.RecordBatch]) -> None:
        """Append lines: when this returns, another process's reader finds them. A pipeline's columns may change."""
        hour = datetime.fromtimestamp(self._now_s(), UTC).strftime(HOUR)
        for schema, lines in _alike(batches):
            draft = self._draft
            if draft is not None and (
                hour != self._hour or not draft.schema.equals(schema) or draft.bytes >= DRAFT_BYTES_MAX
            ):
                self.seal()
            if self._draft is None:
                name = f"{int(self._now_s() * 1e6)}-{os.getpid()}-{next(self._numbers)}{DRAFT}"
                self._draft, self._hour = Draft(self._folder / hour / name, schema), hour
            for batch in lines:
                self._draft.write(batch)

    def seal_if_due(self) -> None:
        """Seal the draft where its hour is over, though nothing comes."""
        if self._draft is not None and datetime.fromtimestamp(self._now_s(), UTC).strftime(HOUR) != self._hour:
            self.seal()

    def seal(self) -> None:
        """Make the draft a Parquet file."""
        if self._draft is not None:
            draft, self._draft = self._draft, None
            try:
                seal_draft(draft.path)
            finally:
                draft.close()

    def recover(self) -> int:
        """Seal the drafts of writers that are gone, and remove what they have begun; return how many."""
        found = 0
        for path in sorted(self._folder.glob(f"*/*{DRAFT}")):
            if self._draft is not None and path == self._draft.path:
                continue
            with path.open("rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                seal_draft(path)
                found += 1
        return found


def seal_draft(path: Path) -> None:
    """Make a Parquet file of a draft, and remove the draft. One without a whole line is only removed."""
    part = path.with_suffix(_UNNAMED)
    rows = 0
    try:
        writer: Any = None
        for table in _groups(path):
            if writer is None:
                writer = sealed_writer(part, table.schema, table.num_rows - table.column("request_id").null_count)
            writer.write_table(table, row_group_size=GROUP_ROWS)
            rows += table.num_rows
        if writer is not None:
            writer.close()
            _flush(part)
            part.rename(path.with_suffix(SEALED))
            _flush(path.parent)
    finally:
        with suppress(FileNotFoundError):
            part.unlink()
    path.unlink()


def sealed_writer(path: Path, schema: pa.Schema, ids: int) -> Any:
    """Return pyarrow's writer of a whole file. ids: about how many request ids a row group has.

    By a Bloom filter of them, DuckDB finds a request without reading what is not of it.
    """
    filters = {"bloom_filter_options": {"request_id": {"ndv": ids, "fpp": BLOOM_FALSE_SHARE}}}
    return pq.ParquetWriter(
        path, schema, compression="zstd", compression_level=ZSTD_LEVEL,
        **(filters if ids and _HAS_BLOOM_FILTERS else {}),
    )  # fmt: skip


def _flush(path: Path) -> None:
    """Have a file's content, or a folder's names, on the disk; the latter where its file system can."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError:
        if not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def read_draft(path: Path) -> Iterator[pa.RecordBatch]:
    """Give the lines of a draft up to where it is cut, or damaged."""
    with path.open("rb") as file:
        try:
            with pa.ipc.open_stream(file) as reader:
                yield from reader
        except (pa.ArrowInvalid, EOFError, OSError):
            return


def _groups(path: Path) -> Iterator[pa.Table]:
    """Give the lines of a draft as tables of a row group each."""
    held: list[pa.RecordBatch] = []
    rows = 0
    for batch in read_draft(path):
        held.append(batch)
        rows += batch.num_rows
        if rows >= GROUP_ROWS:
            yield pa.Table.from_batches(held)
            held, rows = [], 0
    if rows:
        yield pa.Table.from_batches(held)


def _alike(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[pa.Schema, list[pa.RecordBatch]]]:
    """Give batches of one schema together, in order."""
    held: list[pa.RecordBatch] = []
    for batch in batches:
        if held and not held[0].schema.equals(batch.schema):
            yield held[0].schema, held
            held = []
        held.append(batch)
    if held:
        yield held[0].schema, held
