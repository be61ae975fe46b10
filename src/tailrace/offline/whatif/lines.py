"""Requests to be replayed: as callers send them, JSON lines or Parquet, or as they were served: a sample, or a log."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

import msgspec

from tailrace.codecs.json import JsonCodec
from tailrace.errors import ServingError, SetupError, SourceError
from tailrace.monitor.samples import StoredSample, sample_files
from tailrace.offline.parquet_requests import ParquetRequests
from tailrace.offline.whatif.logged import LoggedLines
from tailrace.offline.whatif.outcomes import outcome_text
from tailrace.pipeline import Pipeline
from tailrace.request.rows import RowCount

LINE_BYTES_MAX: Final = 4 << 20
PAGE_ROWS: Final = 4_096
TOLD_MAX: Final = 5
"""Lines that are told of with the reason why they were left out."""


@dataclass(slots=True)
class LeftOut:
    """Lines that are not replayed for one reason. examples: where, and why, of the first few."""

    count: int = 0
    examples: list[tuple[str, str]] = field(default_factory=list)

    def add(self, where: str, why: str) -> None:
        """Count one."""
        self.count += 1
        if len(self.examples) < TOLD_MAX:
            self.examples.append((where, why))


class Asked(NamedTuple):
    """A request of a file. where: FILE:LINE, of Parquet FILE:ROW. requests: as each side reads it.

    outcome: of its line, if any.
    sample: what it was served with; None where that is not recorded.
    """

    where: str
    requests: tuple[Any, Any]
    rows: int
    sample: StoredSample | None
    outcome: str | None


class RequestLines:
    """Reads the requests of a file, JSON lines or Parquet, of a server's sample files, or of its prediction log.

    pipelines: of both sides. rows: counts those of a request. features: what a sample must have recorded. label: the
    name in a line that has its outcome. since_ns, until_ns: of answers, since the epoch; of a log alone.
    bytes_done, bytes_total: how far it is; of Parquet and of a log, rows. unread: lines that are no request; others:
    samples of other pipelines, or of other features. Raises SourceError where there is no such file, or one cannot be
    read, and SetupError for a log of neither pipeline.
    """

    def __init__(
        self,
        path: Path,
        pipelines: tuple[Pipeline, Pipeline],
        rows: RowCount,
        features: frozenset[str],
        label: str | None,
        since_ns: int | None = None,
        until_ns: int | None = None,
    ) -> None:
        types = list(dict.fromkeys(pipeline.request for pipeline in pipelines))
        self._log = LoggedLines(path, pipelines, since_ns, until_ns) if path.is_dir() else None
        self.files = [] if self._log else _files(path)
        self._table = ParquetRequests(path, types) if self.files and _is_parquet(self.files[0]) else None
        self.bytes_done, self.bytes_total = 0, sum(each.stat().st_size for each in self.files)
        if (rows_total := self._table or self._log) is not None:
            self.bytes_total = rows_total.rows
        self.unread, self.others = LeftOut(), LeftOut()
        self._names = {pipeline.name for pipeline in pipelines}
        self._features = features
        self._label = label
        self._count = rows.count
        self._decoders = [JsonCodec(each, array_max=1).decode for each in types]
        self._sample = msgspec.json.Decoder(StoredSample).decode
        self._labelled = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
        self.are_samples = self._log is not None or (self._table is None and self._begins_with_sample())

    @property
    def weighs(self) -> bool:
        """Whether some requests stand for more than others, which is so of a log of which a share is kept."""
        return self._log is not None and self._log.weighs

    def _begins_with_sample(self) -> bool:
        """Return whether the first line that is JSON is a sample."""
        for _, line in self._lines():
            with suppress(msgspec.DecodeError, UnicodeDecodeError):
                self._sample(line)
                return True
            with suppress(msgspec.DecodeError, UnicodeDecodeError):
                msgspec.json.decode(line)
                return False
        return False

    def _lines(self) -> Iterator[tuple[str, bytes]]:
        """Give the lines that are not empty, each with its place."""
        if self._table is not None:
            yield from self._rows(self._table)
            return
        if self._log is not None:
            for done, where, line in self._log.lines():
                self.bytes_done = done
                yield where, line
            return
        for path in self.files:
            try:
                with path.open("rb") as file:
                    for number in count(1):
                        line = self._line(file)
                        if not line:
                            break
                        if line.strip():
                            yield f"{path}:{number}", line
            except OSError as error:
                raise SourceError(f"it cannot be read: {error.strerror}", where=str(path),
                                  next="see that it is there, and may be read") from None  # fmt: skip

    def _rows(self, table: ParquetRequests) -> Iterator[tuple[str, bytes]]:
        """Give the rows of a Parquet file as lines, each with its place."""
        besides = () if self._label is None else (self._label,)
        for page in table.pages(PAGE_ROWS):
            for body in table.bodies(page, besides):
                self.bytes_done += 1
                yield f"{self.files[0]}:{self.bytes_done}", msgspec.json.encode(body)

    def _line(self, file: BinaryIO) -> bytes:
        """Return the next line; of one that is too long its beginning, which is no JSON, and nothing at the end."""
        line = part = file.readline(LINE_BYTES_MAX)
        self.bytes_done += len(part)
        while len(part) == LINE_BYTES_MAX and not part.endswith(b"\n"):
            part = file.readline(LINE_BYTES_MAX)
            self.bytes_done += len(part)
        return line

    def __iter__(self) -> Iterator[Asked]:
        self.bytes_done = 0
        for where, line in self._lines():
            found = self._asked(where, line)
            if isinstance(found, Asked):
                yield found
            else:
                left_out, why = found
                left_out.add(where, why)

    def _asked(self, where: str, line: bytes) -> Asked | tuple[LeftOut, str]:
        """Return the request of a line, or where it counts as left out, and why."""
        outcome, sample = None, None
        try:
            if self._label is not None:
                line, outcome = self._without_label(line, self._label)
            if self.are_samples:
                sample = self._sample(line)
                line = bytes(sample.request)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return self.unread, str(error)
        if sample is not None and (why := self._unlike(sample)):
            return self.others, why
        requests, why = self._decode(line)
        if why:
            return self.unread if sample is None else self.others, why
        rows = self._count(requests[0])
        if isinstance(rows, ServingError):
            return self.unread, f"{rows.what} - at {rows.where}"
        return Asked(where, requests, rows, sample, outcome)

    def _without_label(self, line: bytes, label: str) -> tuple[bytes, str | None]:
        """Return a line without its outcome, and that; a sample's may be beside its request."""
        parts = self._labelled(line)
        value = parts.pop(label, None)
        return msgspec.json.encode(parts), None if value is None else outcome_text(msgspec.json.decode(value))

    def _unlike(self, sample: StoredSample) -> str:
        """Return why a sample cannot be scored again; nothing where it can."""
        if sample.pipeline not in self._names:
            return f"it is of pipeline {sample.pipeline!r}"
        missing = sorted(self._features - sample.features.keys())
        return f"it has no {', '.join(missing[:3])}: another release wrote it" if missing else ""

    def _decode(self, line: bytes) -> tuple[tuple[Any, Any], str]:
        """Return a request as each side reads it, and why one does not."""
        found = [decode(line) for decode in self._decoders]
        for each in found:
            if isinstance(each, ServingError):
                return (None, None), f"{each.what} - at {each.where}"
            if isinstance(each, list):
                return (None, None), "it is an array, not one request"
        return (found[0], found[-1]), ""


def _files(path: Path) -> list[Path]:
    """Return a file of requests, or the files of a sample. Raises SourceError where there is none."""
    try:
        return list(sample_files(path))
    except SetupError:
        raise SourceError("there is no such file", where=str(path),
                          next="give JSON lines or Parquet of requests, or a sample of serve") from None  # fmt: skip


def _is_parquet(path: Path) -> bool:
    """Say whether a file begins as Parquet does."""
    try:
        with path.open("rb") as file:
            return file.read(4) == b"PAR1"
    except OSError:
        return False  # which is told once it is read
