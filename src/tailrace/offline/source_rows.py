"""Reads a view's source through Ibis on DuckDB: sorts good rows from bad, and keeps the latest good one per entity.

    source --cast, without failing--> checked --good, not later than now--> latest per entity --by key--> pages

A value that its column cannot hold makes its row bad. A bad row is counted and reported; the entity keeps its old row.
"""

from __future__ import annotations

import difflib
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np

from tailrace.errors import SourceError
from tailrace.features.batch_views import BatchViewSpec
from tailrace.features.sources import CSV, SQL, Engine, Parquet
from tailrace.features.view_spec import STRING_BYTES_MAX, Column
from tailrace.offline.casts import cast_column, cast_time, fits_vector, text_bytes
from tailrace.offline.database import DatabaseLimits, message_of, open_database, run_query
from tailrace.offline.outside_calls import OutsideCalls, never
from tailrace.offline.remote_query import run_remote_query
from tailrace.offline.sorted_rows import SortedRows
from tailrace.offline.source_keys import KeyType, SourceKey

EXAMPLES_MAX: Final = 5
"""Bad rows whose content is reported; the others are only counted."""

VECTOR: Final = "vector"
CONTENT_CHARACTERS_MAX: Final = 200
_TIME_MIN: Final = "1700-01-01T00:00:00+00:00"  # int64 nanoseconds begin in 1677
_NEXT_MEMORY: Final = (
    "give it more by --memory-mb, or fewer --threads, or gather less at once: sorts, joins and groups spill to a "
    "temporary folder, but not a list or a text that is gathered whole"
)
_NEXT_FILE: Final = "see that the file is there, whole, and of the kind the source declares"


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that was left out: where it is, why, and what it holds."""

    where: str
    why: str
    content: str


@dataclass(frozen=True, slots=True)
class SourceCounts:
    """What a source holds.

    read: all of its rows; bad: left out; nameless: of these, the ones whose id cannot be read; later: true only after
    now, and so left out too.
    """

    read: int
    bad: int
    nameless: int
    later: int


@dataclass(frozen=True, slots=True)
class Page:
    """Some of the rows to be written, by key. columns: masked arrays, or lists of text and None. event_ns: int64."""

    ids: list[Any]
    columns: Mapping[str, Any]
    event_ns: Any


class SourceRows:
    """One view's source, opened. A context manager: it holds a DuckDB database in memory, and a folder to spill to.

    key_type: of the ids in the store; None takes them as the source has them (of a CSV, whose values are all text:
    int, where most are). clock: since the epoch; read once the query has begun, since a query may ask for the time
    itself. Rows later than that and `skew_ns` are left out, and without a time column every row is of then. limits: of
    the database. takes_seconds: whether a time may be a number, of seconds since the epoch. is_stopping:
    says that the query of a SQL file is to end. Raises SourceError, and StoppedError where it was.
    """

    def __init__(
        self,
        spec: BatchViewSpec,
        base_dir: Path,
        key_type: KeyType | None,
        clock: Callable[[], int],
        *,
        skew_ns: int = 0,
        limits: DatabaseLimits | None = None,
        takes_seconds: bool = False,
        is_stopping: Callable[[], bool] = never,
    ) -> None:
        self._ibis, self._errors = _import_ibis()
        self._spec = spec
        self._source = spec.source
        self._key = SourceKey(spec.source, spec.entity)
        self._base_dir = base_dir
        self._path = str(base_dir / spec.source.path)
        self._skew_ns = skew_ns
        self._takes_seconds = takes_seconds
        self._limits = limits or DatabaseLimits()
        self._is_stopping = is_stopping
        self._calls = OutsideCalls(math.inf, is_stopping)  # DuckDB is within, but its query takes as long as any
        # A query that is left behind may write to the folder while it is removed.
        self._spill = tempfile.TemporaryDirectory(prefix="tailrace-", ignore_cleanup_errors=True)
        self._connection: Any = None
        try:
            self._connection = open_database(self._ibis, self._limits, self._spill.name, base_dir)
            self._rows = self._read()
            self.now_ns = clock()
            self._check_columns()
            self._key_types = self._key.types(key_type) or self._key.types_in(
                self._connection, self._rows, is_csv=isinstance(self._source, CSV)
            )
            self._checked = self._check()
        except BaseException as error:
            self.close()
            if isinstance(error, self._errors):
                raise self._cannot_read(error) from None
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
        if isinstance(error, self._errors):
            raise self._cannot_read(error) from None

    def close(self) -> None:
        """Let go of the database. One that a query still uses is left to it: DuckDB refuses to close it."""
        if self._connection is not None and not self._calls.left_behind:
            self._connection.disconnect()
        self._spill.cleanup()

    def count_read(self) -> int:
        """Count the source's rows, whatever they hold."""
        try:
            return int(self._rows.count().to_pyarrow().as_py()) + self._rejected_lines()
        except self._errors as error:
            raise self._cannot_read(error) from None

    def counts(self) -> SourceCounts:
        """Count the source's rows."""
        checked = self._checked
        counted = checked.aggregate(
            read=checked.count(),
            bad=(~checked["$good"]).sum(),
            nameless=checked["$key"].isnull().sum(),
            later=(checked["$good"] & ~checked["$due"]).sum(),
        ).to_pyarrow()
        read, bad, nameless, later = (counted[name][0].as_py() or 0 for name in ("read", "bad", "nameless", "later"))
        rejected = self._rejected_lines()
        return SourceCounts(read + rejected, bad + rejected, nameless + rejected, later)

    def ids(self, rows_max: int, *, due_only: bool = False) -> Iterator[list[Any]]:
        """Yield the ids of the rows, at most `rows_max` at a time: of every row, or of those that are good and due."""
        checked = self._checked
        named = checked.filter(checked["$good"] & checked["$due"] if due_only else checked["$key"].notnull())
        ids = self._connection.create_table(
            "ids", named.mutate(**{"$place": self._ibis.row_number()}).select("$place", "$key"), temp=True
        )
        begin = 0
        while found := ids.filter((ids["$place"] >= begin) & (ids["$place"] < begin + rows_max)).to_pyarrow():
            yield found["$key"].to_pylist()
            begin += rows_max
        self._connection.raw_sql("DROP TABLE ids")

    def prepare(self, after: Any) -> int:
        """Make the rows ready for `pages`: one per entity, by key, those after a key (None: all). Return how many."""
        ibis, checked = self._ibis, self._checked
        due = checked.filter(checked["$good"] & checked["$due"])
        newest = ibis.window(group_by="$key", order_by=[ibis.desc("$time"), ibis.desc("$row")])
        latest = due.mutate(**{"$rank": ibis.row_number().over(newest)})
        latest = latest.filter(latest["$rank"] == 0)
        if after is not None:
            latest = latest.filter(latest["$key"] > after)
        placed = latest.mutate(**{"$place": ibis.row_number().over(ibis.window(order_by="$key"))})
        names = ["$place", "$key", "$time", *(_cast_name(column) for column in self._spec.columns)]
        self._ready = self._connection.create_table("ready", placed.select(*names).order_by("$place"), temp=True)
        return int(self._ready.count().to_pyarrow().as_py())

    def pages(self, rows_max: int) -> Iterator[Page]:
        """Yield the prepared rows in order, at most `rows_max` at a time."""
        ready = self._ready
        begin = 0
        while True:
            page = ready.filter((ready["$place"] >= begin) & (ready["$place"] < begin + rows_max))
            table = page.order_by("$place").to_pyarrow()
            if not table.num_rows:
                return
            columns = {column.name: _values(table[_cast_name(column)], column) for column in self._spec.columns}
            times = table["$time"].cast("int64").to_numpy() * 1_000
            yield Page(table["$key"].to_pylist(), columns, times)
            begin += rows_max

    def history(self, required: Sequence[str] = (), unique: str | None = None) -> SortedRows:
        """Return every good row, whatever its time, sorted by key and time.

        required: columns without whose value a row is left out. unique: the column that tells rows of one key apart.
        """
        checked = self._checked
        good = checked["$good"]
        for name in required:
            good &= checked[f"$cast:{name}"].notnull()
        casts = [_cast_name(column) for column in self._spec.columns]
        try:
            query = self._connection.compile(checked.filter(good).select("$key", "$time", *casts, "$row"))
        except self._errors as error:
            raise self._cannot_read(error) from None
        tells_apart = None if unique is None else f"$cast:{unique}"
        return SortedRows(self._connection, query, casts, tells_apart, self._errors, self._cannot_read)

    def bad_rows(self) -> tuple[BadRow, ...]:
        """Return the first bad rows."""
        checked = self._checked
        table = checked.filter(~checked["$good"]).order_by("$row").limit(EXAMPLES_MAX).to_pyarrow()
        found = [self._bad_row(row) for row in table.to_pylist()]
        return tuple([*self._rejected_rows(), *found][:EXAMPLES_MAX])

    def _bad_row(self, row: dict[str, Any]) -> BadRow:
        """Tell of one bad row: the first of its values that is wrong."""
        source = self._source
        content = {name: value for name, value in row.items() if not name.startswith("$")}
        where = f"{self._path}, row {row['$row'] + 1}"
        if row["$key"] is None:
            key, kind = self._key.wrong_part(content, self._key_types)
            why = _why(key, content[key], kind.__name__)
        elif source.time is not None and not row["$time_good"]:
            why = _why(source.time, content[source.time], "time")
        else:
            column = next(column for column in self._spec.columns if not row[f"$good:{column.name}"])
            name = source.column(column.name)
            why = _why(name, content[name], _kind_of(column))
        return BadRow(where, why, _shorten(str(content)))

    def _read(self) -> Any:
        """Return the source as a table, with the place of each row in `$row`."""
        ibis, connection, source = self._ibis, self._connection, self._source
        if isinstance(source, Parquet):
            table = connection.read_parquet(self._path, table_name="source")
            return table.mutate(**{"$row": ibis.row_number()})
        # Read once: lines that a CSV's reader rejects are reported at every scan, and a query may not repeat its order.
        if isinstance(source, SQL):
            if source.engine is Engine.DUCKDB:
                query = partial(run_query, connection, Path(self._path), self._spec.name)
                # DuckDB does not hear an interrupt that comes between two statements.
                return self._calls.call(query, [connection.con.interrupt], repeats=True)
            return run_remote_query(
                connection, source, self._spec.name, self._base_dir, self._limits, Path(self._spill.name),
                self._is_stopping,
            )  # fmt: skip
        if not isinstance(source, CSV):
            raise SourceError(f"no source can be read of {source!r}", where=self._where, next="use Parquet, CSV or SQL")
        table = connection.read_csv(
            self._path, table_name="source", header=True, all_varchar=True, store_rejects=True, rejects_limit=0,
            delim=source.delimiter,
        )  # fmt: skip
        return connection.create_table("rows", table.mutate(**{"$row": ibis.row_number()}), temp=True)

    @property
    def _where(self) -> str:
        return f"features.{self._spec.name}.source ({self._path})"

    def _cannot_read(self, error: BaseException) -> SourceError:
        text = _shorten(message_of(error))
        if type(error).__name__ == "OutOfMemoryException":
            what = f"it takes more memory than the {self._limits.memory_mb:,} MiB that it may: {text}"
            return SourceError(what, where=self._where, next=_NEXT_MEMORY)
        return SourceError(f"cannot be read: {text}", where=self._where, next=_NEXT_FILE)

    def _check_columns(self) -> None:
        """Raise SourceError for a column that is not there, or whose type none of its kind comes from."""
        source, schema = self._source, self._rows.schema()
        wanted = {
            source.column(column.name): VECTOR if column.width else column.dtype.name for column in self._spec.columns
        }
        wanted |= dict.fromkeys(self._key.columns, "key")
        if source.time is not None:
            wanted[source.time] = "time"
        for name, kind in wanted.items():
            if name not in schema:
                near = difflib.get_close_matches(name, schema.names, n=1, cutoff=0.5)
                hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(map(repr, schema.names[:-1]))}"
                raise SourceError(f"the source has no column {name!r}", where=self._where,
                                  next=f"{hint} A name that differs goes in columns=, key= or time=")  # fmt: skip
            found = schema[name]
            if kind == "time":
                right = found.is_timestamp() or found.is_date() or found.is_string()
                right |= self._takes_seconds and found.is_numeric()
            elif kind == VECTOR:
                right = found.is_array()
            else:
                right = found.is_numeric() or found.is_boolean() or found.is_string()
                right = right or (kind == "object" and not found.is_nested())
            if not right:
                raise SourceError(f"the column {name!r} is {found}, which cannot be a {kind}", where=self._where,
                                  next="cast it where the source is made, or name another column")  # fmt: skip

    def _check(self) -> Any:
        """Return the rows with their values cast, and which of them are good."""
        ibis, rows, source = self._ibis, self._rows, self._source
        now, latest = (
            ibis.literal(np.datetime64(each // 1_000, "us").item()).cast("timestamp('UTC')")
            for each in (self.now_ns, self.now_ns + self._skew_ns)
        )
        made: dict[str, Any] = {
            "$key": self._key.ids(ibis, rows, self._key_types),
            "$time": now
            if source.time is None
            else cast_time(ibis, rows[source.time], takes_seconds=self._takes_seconds),
        }
        checked = rows.mutate(**made)
        made = {"$time_good": (checked["$time"] >= ibis.literal(_TIME_MIN).cast("timestamp('UTC')")).fill_null(False)}
        good = checked["$key"].notnull() & made["$time_good"]
        for column in self._spec.columns:
            raw = rows[source.column(column.name)]
            cast = cast_column(raw, column)
            fits = cast.notnull()
            if column.width:
                fits = fits_vector(cast, column)
            elif column.is_text:
                fits = text_bytes(ibis)(cast) <= STRING_BYTES_MAX
            elif column.dtype.name == "float32":  # a number too large for it becomes infinite
                fits &= ~cast.isinf() | raw.try_cast("float64").isinf()
            fits = raw.isnull() | fits.fill_null(False)
            made |= {_cast_name(column): cast, f"$good:{column.name}": fits}
            good &= fits
        return checked.mutate(**made, **{"$good": good, "$due": checked["$time"] <= latest})

    def _rejected_lines(self) -> int:
        if not isinstance(self._source, CSV):
            return 0
        query = "SELECT count(DISTINCT (file_id, line)) FROM reject_errors"
        return int(self._connection.raw_sql(query).fetchall()[0][0])

    def _rejected_rows(self) -> list[BadRow]:
        """Return the first lines that are no CSV of the header's width."""
        if not isinstance(self._source, CSV):
            return []
        query = (
            "SELECT line, any_value(error_message), any_value(csv_line) FROM reject_errors "
            f"GROUP BY file_id, line ORDER BY file_id, line LIMIT {EXAMPLES_MAX}"
        )
        found = self._connection.raw_sql(query).fetchall()
        return [BadRow(f"{self._path}, line {line}", why, _shorten(str(content))) for line, why, content in found]


def _import_ibis() -> tuple[Any, tuple[type[BaseException], ...]]:
    """Return Ibis, and the errors by which it and DuckDB report a source that cannot be read."""
    try:
        import duckdb
        import ibis
        import pyarrow as pa
        from ibis.common.exceptions import IbisError
    except ImportError as error:
        raise SourceError(f"reading sources needs {error.name}", next="pip install 'tailrace[offline]'") from None
    return ibis, (duckdb.Error, IbisError, pa.ArrowException, OSError, UnicodeDecodeError)


def _cast_name(column: Column) -> str:
    return f"$cast:{column.name}"


def _values(column: Any, declared: Column) -> Any:
    """Return one column of a page: a masked array, or a list for text."""
    if declared.is_text or declared.width:
        return column.to_pylist()
    chunk = column.combine_chunks()
    nulls = chunk.is_null().to_numpy(zero_copy_only=False)
    blank = bool(declared.default) if declared.dtype.kind == "b" else declared.dtype.type(0).item()
    masked: Any = np.ma.MaskedArray  # older NumPy has no types for it
    return masked(chunk.fill_null(blank).to_numpy(zero_copy_only=False), nulls)


def _kind_of(column: Column) -> str:
    """Return what a column holds, in words."""
    if column.width:
        return f"vector of {column.width} numbers of {column.dtype.name}"
    return "text short enough" if column.is_text else column.dtype.name


def _why(name: str, value: Any, kind: str) -> str:
    return f"{name}: there is none" if value is None else f"{name}: {_shorten(repr(value))} is no {kind}"


def _shorten(text: str) -> str:
    return text if len(text) <= CONTENT_CHARACTERS_MAX else f"{text[: CONTENT_CHARACTERS_MAX - 1]}…"
