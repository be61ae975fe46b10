"""Lines that are in the log twice: an observer that died has written them, and its successor again.

A successor first writes what it found in the rings. So lines that were written before were answered before its file was
begun, and stand in files that another has begun before. Only these are compared: most logs have none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tailrace.monitor.log.lines import DAMAGE, FileLines, Span
from tailrace.monitor.log.listing import LogFile

IDENTITY: Final = ("time", "request_id", "trace", "client", "release", "slot", "row", "wait_us", "whole_us", "request")
"""What two lines have in common that are one. A caller need not give an id, and a whole batch has one time."""
_NS_PER_US: Final = 1_000


def repeats(files: Sequence[FileLines]) -> dict[LogFile, NDArray[np.int64]]:
    """Return the places of the lines that stand in a file before, too, by file.

    files: in the order in which they were begun.
    """
    found = {}
    writers = _writers([each.file for each in files])
    for place, lines in enumerate(files):
        made_us = lines.file.made_ns // _NS_PER_US
        head = [span for span in lines.spans if span.begin_us <= made_us]
        if not head:
            continue
        begin_us, end_us = min(span.begin_us for span in head), made_us
        earlier = [
            (other, near)
            for other, writer in zip(files[:place], writers, strict=False)
            if writer != writers[place]
            and (near := [span for span in other.spans if span.end_us >= begin_us and span.begin_us <= end_us])
        ]
        if earlier and (places := _in_both(lines, head, earlier, (begin_us, end_us))):
            found[lines.file] = np.array(places, np.int64)
    return found


def _writers(files: Sequence[LogFile]) -> list[tuple[int, int]]:
    """Return who has written each file: a process, and how many of its number were before it.

    In a container every observer may have the same number; its files are counted from 0.
    """
    last: dict[int, tuple[int, int]] = {}
    found = []
    for file in files:
        number, before = last.get(file.process, (-1, 0))
        last[file.process] = (file.number, before + (file.number <= number))
        found.append((file.process, last[file.process][1]))
    return found


def _in_both(
    lines: FileLines, head: Sequence[Span], earlier: Sequence[tuple[FileLines, list[Span]]], times_us: tuple[int, int]
) -> list[int]:
    """Return the places of lines, among those of a time, that stand in other files."""
    known: set[int] = set()
    for other, spans in earlier:
        with suppress(*DAMAGE):  # it went, or is damaged: then its lines are not given either
            for batch in other.batches(IDENTITY, spans):
                known |= {identity for _, identity in identities(batch, times_us)}
    places = []
    with suppress(*DAMAGE):
        for span in head:
            first = span.first
            for batch in lines.batches(IDENTITY, [span]):
                places += [first + place for place, identity in identities(batch, times_us) if identity in known]
                first += batch.num_rows
    return places


def identities(batch: pa.RecordBatch, times_us: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """Give the place of each line that is of a time, both ends among it, and what tells the line from all others."""
    times = batch.column("time").cast(pa.int64()).to_numpy(zero_copy_only=False)
    places = np.flatnonzero((times >= times_us[0]) & (times <= times_us[1]))
    near = batch.take(pa.array(places))
    columns = [near.column(name).to_pylist() for name in IDENTITY if name in near.schema.names]
    yield from zip(places.tolist(), map(hash, zip(*columns, strict=True)), strict=True)
