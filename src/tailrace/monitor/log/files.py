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
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO, Final

import pyarrow as pa
import pyarrow.parquet as pq
import structlog

from tailrace.monitor.log.draft import Draft
from tailrace.monitor.log.names import DRAFT, HOUR, SEALED

DAMAGED: Final = ".damaged"
"""A draft of which not all could be made a file."""
_UNNAMED: Final = ".part"
DRAFT_BYTES_MAX: Final = 64 << 20
"""A draft is sealed at this size, whatever the hour."""
GROUP_ROWS: Final = 65_536
"""Of a row group: what sealing holds in memory at once."""
ZSTD_LEVEL: Final = 3
BLOOM_FALSE_SHARE: Final = 0.01
"""Of the row groups without an id that a reader looks into; it costs two bytes a line."""
_DISTINCT: Final = {"time", "request_id", "trace", "request"}
"""Hardly two values are alike: a dictionary of them takes 4% of the file, and a third of the time that sealing does."""
_HAS_BLOOM_FILTERS: Final = "bloom_filter_options" in inspect.signature(pq.ParquetWriter.__init__).parameters


class LogFiles:
    """The log of one pipeline under a directory. Every method may raise OSError, and all may be called again then."""

    def __init__(self, folder: Path, now_s: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._now_s = now_s
        self._draft: Draft | None = None
        self._hour = ""
        self._numbers = count()
        self._logger = structlog.get_logger()

    def write(self, batches: Iterable[pa.RecordBatch]) -> None:
        """Append lines: when this returns, another process's reader finds them. A pipeline's columns may change."""
        hour = datetime.fromtimestamp(self._now_s(), UTC).strftime(HOUR)
        self._look_at_draft()
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

    def flush(self) -> None:
        """Have what was appended on the disk."""
        if self._draft is not None:
            self._draft.flush()

    def seal_if_due(self) -> None:
        """Seal the draft where its hour is over, though nothing comes."""
        if self._draft is not None and datetime.fromtimestamp(self._now_s(), UTC).strftime(HOUR) != self._hour:
            self.seal()

    def seal(self) -> None:
        """Make the draft a Parquet file. Where that fails it stays, and `recover` does it."""
        if self._draft is not None:
            draft, self._draft = self._draft, None
            try:
                seal_draft(draft.path, is_ours=True)
            finally:
                draft.close()

    def recover(self, drafts_max: int = sys.maxsize) -> int:
        """Seal the drafts that nobody writes any more; return how many. One that fails does not keep the others."""
        found = 0
        fault: OSError | None = None
        for path in sorted(self._folder.glob(f"*/*{DRAFT}")):
            if found == drafts_max:
                break
            if self._draft is not None and path == self._draft.path:
                continue
            try:
                found += self._recover(path)
            except FileNotFoundError:  # another server was first
                continue
            except OSError as error:
                fault = error
        if fault is not None:
            raise fault
        return found

    def _recover(self, path: Path) -> bool:
        """Seal a draft unless its writer lives. What no file can be made of is put aside."""
        with path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            if not os.path.samestat(os.stat(path), os.fstat(file.fileno())):
                return False
            try:
                is_whole, cause = seal_draft(path), "it cannot be read to its end"
            except OSError:
                raise
            except Exception as error:  # it would come again at each start
                path.rename(path.with_suffix(DAMAGED))
                is_whole, cause = False, str(error)
            if not is_whole:
                self._logger.error("a draft of the log is damaged", path=str(path), cause=cause)
            return True

    def _look_at_draft(self) -> None:
        """Begin another draft where this one was removed, moved, cut or spoilt: lines behind a gap cannot be read."""
        if self._draft is not None and not self._draft.is_intact:
            draft, self._draft = self._draft, None
            self._logger.warning("a draft of the log was changed by others", path=str(draft.path), lines=draft.rows)
            draft.close()


def seal_draft(path: Path, *, is_ours: bool = False) -> bool:
    """Make a Parquet file of a draft, and remove the draft; return whether it could be read to its end.

    One without a whole line is only removed. What is damaged, and not only cut short, is put aside. is_ours: who calls
    has written it, so that its values need not be looked through.
    """
    part = path.with_suffix(_UNNAMED)
    writer: Any = None
    try:
        with path.open("rb") as file:
            lines = _Lines(file, is_checked=not is_ours)
            for table in _groups(lines):
                if writer is None:
                    ids, traces = (table.num_rows - table.column(name).null_count for name in ("request_id", "trace"))
                    writer = sealed_writer(part, table.schema, ids, traces)
                writer.write_table(table, row_group_size=GROUP_ROWS)
        if writer is not None:
            writer.close()
            _flush(part)
            part.rename(path.with_suffix(SEALED))
            _flush(path.parent)
    finally:
        if writer is not None and writer.is_open:
            with suppress(OSError):
                writer.close()
        with suppress(FileNotFoundError):
            part.unlink()
    if lines.is_whole:
        path.unlink()
    else:
        path.rename(path.with_suffix(DAMAGED))
    return lines.is_whole


def sealed_writer(path: Path, schema: pa.Schema, ids: int, traces: int = 0) -> Any:
    """Return pyarrow's writer of a whole file. ids, traces: about how many of them a row group has.

    By a Bloom filter of each, DuckDB finds a request without reading what is not of it.
    """
    counts = {"request_id": ids, "trace": traces}
    filters = {name: {"ndv": count, "fpp": BLOOM_FALSE_SHARE} for name, count in counts.items() if count}
    return pq.ParquetWriter(
        path, schema, compression="zstd", compression_level=ZSTD_LEVEL,
        use_dictionary=[leaf for field in schema if field.name not in _DISTINCT for leaf in _leaves(field)],
        column_encoding={"time": "DELTA_BINARY_PACKED"},
        **({"bloom_filter_options": filters} if filters and _HAS_BLOOM_FILTERS else {}),
    )  # fmt: skip


def _leaves(field: pa.Field, prefix: str = "") -> Iterator[str]:
    """Give the columns that Parquet has of a field."""
    path, kind = f"{prefix}{field.name}", field.type
    if pa.types.is_struct(kind):
        for place in range(kind.num_fields):
            yield from _leaves(kind.field(place), f"{path}.")
    else:
        yield f"{path}.list.element" if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind) else path


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
    """Give the lines of a draft up to where it is cut, or damaged. Raises OSError where the disk cannot be read."""
    with path.open("rb") as file:
        yield from _Lines(file)


class _Lines:
    """The lines of a stream. is_checked: unless their values are known to be what they were written as.

    is_whole: whether they were all given. What its end is cut in the midst of, or damaged, is taken for one that was
    written in part, and no line yet.
    """

    def __init__(self, file: BinaryIO, *, is_checked: bool = True) -> None:
        self._file = file
        self._is_checked = is_checked
        self.is_whole = True

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        try:
            with pa.ipc.open_stream(self._file) as reader:
                for batch in reader:
                    if self._is_checked and not is_valid(batch):
                        self.is_whole = False
                        return
                    yield batch
        except OSError as error:
            if error.errno is not None:  # else Arrow tells so that a file ends too soon
                raise
        except (pa.ArrowException, EOFError):
            pass
        self.is_whole = self._file.tell() == os.fstat(self._file.fileno()).st_size


def is_valid(batch: pa.RecordBatch) -> bool:
    """Return whether all values can be read: lengths that are damaged would end the process that follows them."""
    try:
        batch.validate(full=True)
    except (pa.ArrowException, UnicodeDecodeError):
        return False
    return True


def _groups(lines: _Lines) -> Iterator[pa.Table]:
    """Give lines as tables of a row group each."""
    held: list[pa.RecordBatch] = []
    rows = 0
    for batch in lines:
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
