"""The history of a source, sorted by entity and time on disk by DuckDB, and read in parts that hold whole entities."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tailrace.features.batch_views import BatchViewSpec
from tailrace.features.ranges import Places
from tailrace.offline.arrow_columns import times_ns
from tailrace.offline.database import MEMORY_MB, DatabaseLimits
from tailrace.offline.source_keys import KeyType
from tailrace.offline.source_rows import BadRow, SourceRows

PART_ROWS: Final = 262_144
"""Rows of a history that are read at a time; more, where one entity has more."""


@dataclass(frozen=True, slots=True)
class HistoryPart:
    """Some entities' rows, in the order of entity and time.

    entities: their ids, as Arrow. begins, ends: where each one's rows are. times: int64 ns. table: `$cast:NAME` of
    each column.
    """

    entities: Any
    begins: Places
    ends: Places
    times: NDArray[np.int64]
    table: Any

    def column(self, name: str) -> Any:
        """Return one column, as Arrow."""
        return self.table[f"$cast:{name}"]


@dataclass(frozen=True, slots=True)
class HistoryCounts:
    """What a history holds. rows: that are used. bad: left out, since a value is none of its column; examples: of them.

    dropped: left out beside these, without a value that every event has, or of an id that was there before.
    """

    rows: int
    bad: int
    dropped: int
    examples: tuple[BadRow, ...]


class History:
    """Reads one source. It holds a database; `close` lets go of it. Raises SourceError for what cannot be read.

    required: columns without whose value a row is left out. unique: the column that tells an entity's rows apart; those
    of one time are in its order. limits: of sorting; kept_mb: what may stay in memory afterwards.
    """

    def __init__(
        self,
        spec: BatchViewSpec,
        base_dir: Path,
        key_type: KeyType | None,
        limits: DatabaseLimits,
        *,
        required: Sequence[str] = (),
        unique: str | None = None,
        part_rows: int = PART_ROWS,
        kept_mb: int = MEMORY_MB,
    ) -> None:
        self._part_rows = part_rows
        self._source = SourceRows(
            spec, base_dir, key_type, time.time_ns, limits=limits, takes_seconds=unique is not None
        )
        self.close = self._source.close
        try:
            self._rows = self._source.history(required, unique)
            self._rows.limit_memory(kept_mb)
        except BaseException:
            self.close()
            raise

    def counts(self) -> HistoryCounts:
        """Count its rows."""
        if self._source.count_read() == self._rows.count:  # sooner known than how many are bad
            return HistoryCounts(self._rows.count, 0, 0, ())
        found = self._source.counts()
        left = found.read - found.bad - self._rows.count
        return HistoryCounts(self._rows.count, found.bad, left, self._source.bad_rows() if found.bad else ())

    def parts(self) -> Iterator[HistoryPart]:
        """Give the rows, in parts."""
        import pyarrow as pa

        rest = None
        for begin in range(0, self._rows.count, self._part_rows):
            page = self._rows.page(begin, self._part_rows)
            table = page if rest is None else pa.concat_tables([rest, page])
            rest = None
            if begin + self._part_rows < self._rows.count:  # the last entity may go on
                last = _begin_of_last(table["$key"])
                table, rest = table.slice(0, last), table.slice(last)
            if table.num_rows:
                yield _part(table)


def _begin_of_last(keys: Any) -> int:
    """Return where the rows of the last entity begin."""
    import pyarrow.compute as pc

    if keys.num_chunks and keys.length():
        is_last = pc.equal(keys, keys[keys.length() - 1])
        return int(pc.index(is_last, True).as_py())
    return 0


def _part(table: Any) -> HistoryPart:
    import pyarrow.compute as pc

    table = table.combine_chunks()
    encoded = pc.run_end_encode(table["$key"].combine_chunks())
    ends = np.asarray(encoded.run_ends.to_numpy(), np.intp)
    begins = np.concatenate((np.zeros(1, np.intp), ends[:-1]))
    return HistoryPart(encoded.values, begins, ends, times_ns(table["$time"]), table)
