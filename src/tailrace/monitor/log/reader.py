"""Reads the prediction log of one pipeline: whole files and drafts, each line once, as columns of one schema."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tailrace.monitor.log.lines import DAMAGE, FileLines, Span
from tailrace.monitor.log.listing import LogFile, PassedOver, log_files
from tailrace.monitor.log.repeats import repeats
from tailrace.monitor.log.schemas import conformed, differing, united, why_not

_NS_PER_US: Final = 1_000
_TIME: Final = pa.timestamp("us", tz="UTC")


class LogReader:
    """Reads what a log has now. since_ns, until_ns: of answers, since the epoch; the latter is not among them.

    A file that is damaged, that goes while it is read, or whose columns do not go together with those of newer files,
    is passed over: `passed_over` names it. Lines that an observer which was killed has left twice come once. What was
    redacted is not there. Raises OSError for a directory that cannot be read.
    """

    def __init__(self, root: Path, pipeline: str, *, since_ns: int | None = None, until_ns: int | None = None) -> None:
        self.pipeline = pipeline
        self.passed_over: list[PassedOver] = []
        self.since_us = None if since_ns is None else since_ns // _NS_PER_US
        self.until_us = None if until_ns is None else until_ns // _NS_PER_US
        opened = [
            lines
            for file in log_files(root, pipeline, since_ns=since_ns, until_ns=until_ns)
            if (lines := self._open(file)) is not None
        ]
        self.schema, self.files = self._together(opened)

    @cached_property
    def twice(self) -> dict[LogFile, NDArray[np.int64]]:
        """The places of lines that stand in an earlier file, too, by file; most logs have none."""
        return repeats(self.files)

    def leave_out(self, damaged: Sequence[PassedOver]) -> None:
        """Pass over files that were found to be damaged before."""
        paths = {each.path for each in damaged}
        self.files = [lines for lines in self.files if lines.file.path not in paths]
        self.passed_over += damaged

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Give lines in the order in which they were written, some thousand at a time, and only those of the time.

        columns: by name, for all of them None; those that no file has are left out.
        """
        names = [name for name in self.schema.names if columns is None or name in columns]
        schema = pa.schema([self.schema.field(name) for name in names])
        for lines in self.files:
            for batch in self.batches_of(lines, [*names, *({"time"} - set(names))]):
                yield conformed(batch.select([name for name in names if name in batch.schema.names]), schema)

    def batches_of(self, lines: FileLines, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Give the lines of one file as it has them; what cannot be read is passed over. columns: `time` among them."""
        try:
            yield from self.lines_of(lines, columns)
        except FileNotFoundError:
            self._pass_over(lines.file, "it went while it was read")
        except DAMAGE as error:
            self._pass_over(lines.file, _reason(error))

    def lines_of(self, lines: FileLines, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Give the lines of one file as it has them, of the time, each once. columns: `time` among them.

        Raises OSError and ArrowException for what cannot be read.
        """
        twice, first = self.twice.get(lines.file), 0
        for batch in lines.batches(columns):
            keep = self._of_the_time(batch)
            if twice is not None:
                own = twice[(twice >= first) & (twice < first + batch.num_rows)] - first
                keep[own] = False
            first += batch.num_rows
            if keep.all():
                yield batch
            elif keep.any():
                yield batch.filter(pa.array(keep))

    def _of_the_time(self, batch: pa.RecordBatch) -> NDArray[np.bool_]:
        times = pc.cast(batch.column("time"), pa.int64()).to_numpy(zero_copy_only=False)
        keep = np.ones(len(times), np.bool_)
        if self.since_us is not None:
            keep &= times >= self.since_us
        if self.until_us is not None:
            keep &= times < self.until_us
        return keep

    def _open(self, file: LogFile) -> FileLines | None:
        """Return the lines of a file; None where it has none, or cannot be read, which is noted."""
        try:
            lines = FileLines(file)
            why = why_not(lines.schema) if lines.schema.names else ""
            has_lines = not why and any(map(self._may_be_of_the_time, lines.spans))
        except FileNotFoundError:
            return self._open(file.sealed()) if file.is_draft else None  # it was swept a moment ago
        except DAMAGE as error:
            why, has_lines = _reason(error), False
        if why:
            self._pass_over(file, why)
        return lines if has_lines else None

    def _may_be_of_the_time(self, span: Span) -> bool:
        is_later = self.until_us is not None and span.begin_us >= self.until_us
        return not is_later and (self.since_us is None or span.end_us >= self.since_us)

    def _together(self, opened: list[FileLines]) -> tuple[pa.Schema, list[FileLines]]:
        """Return the schema of files, and those that have it; the newest say what it is."""
        newest = opened[::-1]
        schema, apart = united(lines.schema for lines in newest)
        for place in apart:
            assert schema is not None
            names = ", ".join(differing(schema, newest[place].schema)) or "columns"
            self._pass_over(newest[place].file, f"newer files have values of another kind in {names}")
        kept = [lines for place, lines in enumerate(newest) if place not in set(apart)]
        return schema or pa.schema([("time", _TIME)]), kept[::-1]

    def _pass_over(self, file: LogFile, why: str) -> None:
        self.passed_over.append(PassedOver(file.path, why))


def _reason(error: Any) -> str:
    told = getattr(error, "strerror", None) or str(error)
    return (told.splitlines() or [type(error).__name__])[0]
