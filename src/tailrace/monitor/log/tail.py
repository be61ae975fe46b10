"""The end of the prediction log: gives lines as they are written, over the ends of hours and of writers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa

from tailrace.deadline import NS_PER_S
from tailrace.monitor.log.draft_tail import DraftTail
from tailrace.monitor.log.lines import FileLines
from tailrace.monitor.log.listing import LogFile, log_files
from tailrace.monitor.log.repeats import identities
from tailrace.monitor.log.schemas import why_not

BEHIND_NS: Final = 2 * 3_600 * NS_PER_S
"""Files of hours before are not looked for: nothing is added to them."""
RECENT_MAX: Final = 100_000
"""Lines that are remembered, so that those which a new observer writes again are not given again."""

_NS_PER_US: Final = 1_000
_FOR_EVER_US: Final = 1 << 62

_Key = tuple[int, int, int]


class LogTail:
    """Gives the lines that are new each time. read: how many lines of each file are not new; a file besides is.

    Raises OSError for a directory that cannot be read. Files that cannot be read are left out.
    """

    def __init__(
        self, root: Path, pipeline: str, read: Mapping[LogFile, int | None], now_ns: Callable[[], int] | None = None
    ) -> None:
        self._root, self._pipeline = root, pipeline
        self._now_ns = now_ns or time.time_ns
        self._drafts: dict[_Key, tuple[LogFile, DraftTail]] = {}
        self._known = {_key(file): rows for file, rows in read.items()}
        """How many lines were read of a file that is known; None for one that is done with."""
        self._recent: dict[int, None] = {}

    def lines(self) -> Iterator[pa.RecordBatch]:
        """Give what was written since this was last asked."""
        files = log_files(self._root, self._pipeline, since_ns=self._now_ns() - BEHIND_NS)
        listed = {_key(file) for file in files}
        for file in files:
            for batch in self._of(file):
                yield from self._new(batch, file)
        for key in self._drafts.keys() - listed:  # it was removed: what came before is still in it
            file, draft = self._drafts.pop(key)
            for batch in draft.read(over_damage=True):
                yield from self._new(batch, file)
        for key in [each for each in self._known if each not in listed and self._known[each] is None]:
            del self._known[key]

    def close(self) -> None:
        """Close the files."""
        self._drafts.clear()

    def _of(self, file: LogFile) -> Iterator[pa.RecordBatch]:
        """Give the lines of a file that were not given before."""
        key = _key(file)
        if key in self._known and self._known[key] is None:
            return
        held = self._drafts.get(key)
        if held is None and file.is_draft:
            with suppress(FileNotFoundError):  # it is whole by now: next time
                held = self._drafts[key] = file, DraftTail(file.path, self._known.get(key) or 0)
        if held is not None:
            yield from held[1].read(over_damage=True)
            if not file.is_draft:
                del self._drafts[key]
        elif not file.is_draft:
            yield from _whole(file, self._known.get(key) or 0)
        if not file.is_draft:
            self._known[key] = None

    def _new(self, batch: pa.RecordBatch, file: LogFile) -> Iterator[pa.RecordBatch]:
        """Give lines but for those that were given a moment ago, and were answered before their file was begun."""
        keep = np.ones(batch.num_rows, np.bool_)
        made_us = file.made_ns // _NS_PER_US
        for place, identity in identities(batch, (0, made_us)):
            keep[place] = identity not in self._recent
        self._recent |= {identity: None for _, identity in identities(batch, (0, _FOR_EVER_US))}
        for identity in list(islice(self._recent, max(len(self._recent) - RECENT_MAX, 0))):
            del self._recent[identity]
        yield batch if keep.all() else batch.filter(pa.array(keep))


def _whole(file: LogFile, skip: int) -> Iterator[pa.RecordBatch]:
    """Give the lines of a file that became whole before it was seen, but for the first."""
    try:
        lines = FileLines(file)
        if why_not(lines.schema):
            return
        for batch in lines.batches():
            skipped = min(skip, batch.num_rows)
            skip -= skipped
            if batch.num_rows > skipped:
                yield batch.slice(skipped)
    except (OSError, pa.ArrowException):
        return


def _key(file: LogFile) -> _Key:
    """Return what a file has in common with the draft that it was."""
    return file.made_ns, file.process, file.number
