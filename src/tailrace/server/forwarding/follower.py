"""What a sink has not been sent yet of a prediction log: lines of drafts and whole files, or whole files alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import structlog

from tailrace.errors import SetupError
from tailrace.monitor.log.draft_tail import DraftTail
from tailrace.monitor.log.listing import LogFile, log_files, log_pipelines
from tailrace.server.forwarding.positions import FilePosition, Positions

LINES_MAX: Final = 1_000
"""That are sent at once."""


class Lines(NamedTuple):
    """Some lines of one file."""

    pipeline: str
    position: FilePosition
    batch: pa.RecordBatch


class LogFollower:
    """Finds what is new in a log by the positions of one sink. lost: lines that went before they were sent."""

    def __init__(self, root: Path, positions: Positions) -> None:
        self._root = root
        self._positions = positions.files
        self._files: dict[str, tuple[str, LogFile]] = {}
        self._tails: dict[str, DraftTail] = {}
        self._logger = structlog.get_logger()
        self.lost = 0

    def look(self) -> None:
        """See which files there are."""
        try:
            pipelines = log_pipelines(self._root)
        except SetupError:  # it is not there yet, or not any more
            pipelines = []
        self._files = {
            self._name(file): (pipeline, file) for pipeline in pipelines for file in log_files(self._root, pipeline)
        }
        for name in self._positions.keys() - self._files.keys():
            gone = self._positions.pop(name)
            self.lost += max(gone.total - gone.sent, 0)
        self._tails = {name: tail for name, tail in self._tails.items() if name in self._files}
        for name, (_, file) in self._files.items():
            position = self._positions.setdefault(name, FilePosition())
            if not file.is_draft and position.total < 0:
                self._tails.pop(name, None)
                position.total = self._total(file, position)

    def lines(self) -> Iterator[Lines]:
        """Give lines that are not sent, file by file. Who has sent them moves the position on, before the next ones."""
        for name, (pipeline, file) in self._files.items():
            position = self._positions[name]
            if position.is_done:
                continue
            for batch in self._whole(name, file, position):
                for first in range(0, batch.num_rows, LINES_MAX):
                    yield Lines(pipeline, position, batch.slice(first, LINES_MAX))

    def files(self) -> Iterator[tuple[Path, FilePosition]]:
        """Give whole files that are not sent."""
        for name, (_, file) in self._files.items():
            position = self._positions[name]
            if not file.is_draft and not position.is_done:
                yield file.path, position

    def waiting_bytes(self, *, with_drafts: bool) -> int:
        """Return how much of the disk is not sent, about."""
        found = 0.0
        for name, (_, file) in self._files.items():
            position = self._positions[name]
            if position.is_done or (file.is_draft and not with_drafts):
                continue
            with suppress(FileNotFoundError):
                size = file.path.stat().st_size
                tail = self._tails.get(name)
                found += size - tail.offset if tail is not None else size
        return int(found)

    def begin_again(self) -> None:
        """Read again what was read, and not sent."""
        self._tails.clear()

    def _whole(self, name: str, file: LogFile, position: FilePosition) -> Iterator[pa.RecordBatch]:
        """Give the lines of a file that are not sent, up to where it is damaged: what is behind that is lost."""
        try:
            yield from self._read(name, file, position.sent)
        except FileNotFoundError:  # it became whole, or went: the next look sees to it
            return
        except (OSError, pa.ArrowException) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            self._tell(file, error)
            self.lost += max(position.total - position.sent, 0)
            position.total = position.sent

    def _read(self, name: str, file: LogFile, sent: int) -> Iterator[pa.RecordBatch]:
        if file.is_draft:
            tail = self._tails.get(name)
            if tail is None:
                tail = self._tails[name] = DraftTail(file.path, sent)
            yield from tail.read(over_damage=False)  # what is behind damage is read once the draft is sealed
            return
        with pq.ParquetFile(file.path) as opened:
            first = 0
            for group in range(opened.num_row_groups):
                rows = opened.metadata.row_group(group).num_rows
                if first + rows > sent:
                    for batch in opened.iter_batches(LINES_MAX, row_groups=[group]):
                        if first + batch.num_rows > sent:
                            yield batch.slice(max(sent - first, 0))
                        first += batch.num_rows
                else:
                    first += rows

    def _total(self, file: LogFile, position: FilePosition) -> int:
        """Return the lines of a whole file; of one that cannot be read those that are sent, so that it is left."""
        try:
            return int(pq.read_metadata(file.path).num_rows)
        except FileNotFoundError:
            return -1
        except (OSError, pa.ArrowException) as error:
            self._tell(file, error)
            return position.sent

    def _tell(self, file: LogFile, fault: Any) -> None:
        self._logger.error("a file of the log cannot be sent on", path=str(file.path), cause=str(fault))

    def _name(self, file: LogFile) -> str:
        return file.path.with_suffix("").relative_to(self._root).as_posix()
