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
from collections import deque
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
TURNS_MAX: Final = 8
TURNS_S: Final = 60.0
"""So often in such a time a draft is sealed since its columns change. Where they change in turns, frame by frame, as of
two releases that are served at once, drafts then stay beside each other."""
BESIDE_MAX: Final = 3
"""Drafts that are written beside one."""


class LogFiles:
    """The log of one pipeline under a directory. Every method may raise OSError, and all may be called again then."""

    def __init__(self, folder: Path, now_s: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._now_s = now_s
        self._draft: Draft | None = None
        self._beside: list[Draft] = []
        self._turns_s: deque[float] = deque(maxlen=TURNS_MAX)
        self._hour = ""
        self._numbers = count()
        self._logger = structlog.get_logger()

    def write(self, batches: Iterable[pa.RecordBatch]) -> None:
        """Append lines: when this returns, another process's reader finds them. A pipeline's columns may change."""
        self._look_at_drafts()
        self.seal_if_due()
        for schema, lines in _alike(batches):
            draft = self._draft_of(schema)
            for batch in lines:
                draft.write(batch)

    def flush(self) -> None:
        """Have what was appended on the disk."""
        for draft in self._drafts:
            draft.flush()

    def seal_if_due(self) -> None:
        """Seal the drafts where their hour is over, though nothing comes."""
        if self._drafts and self._hour_now() != self._hour:
            self.seal()

    def seal(self) -> None:
        """Make the drafts Parquet files. Where that fails one stays, and `recover` does it."""
        drafts, self._draft, self._beside = self._drafts, None, []
        fault: Exception | None = None
        for draft in drafts:
            try:
                _seal(draft)
            except Exception as error:
                fault = error
        if fault is not None:
            raise fault

    @property
    def _drafts(self) -> list[Draft]:
        """Those that are written; last the one that was written last."""
        return self._beside if self._draft is None else [*self._beside, self._draft]

    def _hour_now(self) -> str:
        return datetime.fromtimestamp(self._now_s(), UTC).strftime(HOUR)

    def _draft_of(self, schema: pa.Schema) -> Draft:
        """Return the draft that has these columns; a new one where none has, or it is large enough."""
        if self._drafts and (self._draft is None or not self._draft.schema.equals(schema)):
            self._turn_to(schema)
        if self._draft is not None and self._draft.bytes >= DRAFT_BYTES_MAX:
            draft, self._draft = self._draft, None
            _seal(draft)
        if self._draft is None:
            hour = self._hour_now()
            name = f"{int(self._now_s() * 1e6)}-{os.getpid()}-{next(self._numbers)}{DRAFT}"
            self._draft, self._hour = Draft(self._folder / hour / name, schema), hour
        return self._draft

    def _turn_to(self, schema: pa.Schema) -> None:
        """Have the draft with some columns as the one that is written, if there is one."""
        drafts, now_s = self._drafts, self._now_s()
        self._turns_s.append(now_s)
        is_calm = len(self._turns_s) < TURNS_MAX or now_s - self._turns_s[0] > TURNS_S
        self._draft = next((each for each in drafts if each.schema.equals(schema)), None)
        self._beside = [each for each in drafts if each is not self._draft]
        while len(self._beside) > (0 if is_calm else BESIDE_MAX):
            _seal(self._beside.pop(0))

    def recover(self, drafts_max: int = sys.maxsize) -> int:
        """Seal the drafts that nobody writes any more; return how many. One that fails does not keep the others."""
        found = 0
        fault: OSError | None = None
        for path in sorted(self._folder.glob(f"*/*{DRAFT}")):
            if found == drafts_max:
                break
            if any(path == draft.path for draft in self._drafts):
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

    def _look_at_drafts(self) -> None:
        """Begin another draft where one was removed, moved, cut or spoilt: lines behind a gap cannot be read."""
        for draft in self._drafts:
            if not draft.is_intact:
                self._draft = None if draft is self._draft else self._draft
                self._beside = [each for each in self._beside if each is not draft]
                self._logger.warning("a draft of the log was changed by others", path=str(draft.path), lines=draft.rows)
                draft.close()


def _seal(draft: Draft) -> None:
    """Make a draft of ours a Parquet file, and let go of it."""
    try:
        seal_draft(draft.path, is_ours=True)
    finally:
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
