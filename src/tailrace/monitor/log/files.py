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
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Final

import pyarrow as pa
import structlog

from tailrace.monitor.log.draft import Draft
from tailrace.monitor.log.names import DAMAGED, DRAFT, HOUR
from tailrace.monitor.log.sealing import seal_draft

DRAFT_BYTES_MAX: Final = 64 << 20
"""A draft is sealed at this size, whatever the hour."""


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
