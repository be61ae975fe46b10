"""The prediction log as a table that SQL may ask: a DuckDB database in memory, with one view, and access to no more.

The view `log` has the columns of the log's lines, each line once. `degraded` and `reasons` are null where they are
empty. Whole files are read as the query needs them; drafts, of 64 MiB at most each, are read before it.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from tailrace.errors import SourceError
from tailrace.monitor.log.lines import FileLines
from tailrace.monitor.log.listing import LogFile
from tailrace.monitor.log.reader import LogReader
from tailrace.monitor.log.schemas import conformed
from tailrace.offline.database import DatabaseLimits, message_of, quoted_name

BATCH_ROWS: Final = 8_192
"""Lines that a result gives at once."""
FAULTS: Final = (duckdb.Error, OSError, pa.ArrowException)
"""What a query raises, and reading its result: the others, where DuckDB comes to it while Arrow asks for more."""
_DOES_MORE: Final = re.compile("copy|insert|update|delete|merge|execute", re.IGNORECASE)
"""Of an operator of a plan that does more than to read: a SELECT may begin `WITH x AS (COPY …)`, or run a text."""
_MAY_DO_MORE: Final = re.compile(f"{_DOES_MORE.pattern}|query", re.IGNORECASE)
"""What stands in every query that has such an operator: `query` makes SQL of a text."""
_EMPTY_IS_NULL: Final = ("degraded", "reasons")
_NEXT: Final = "the view `log` has the lines; `--sql 'DESCRIBE log'` names its columns"


class LinesDatabase:
    """A database with the view `log`, over lines that are at hand. Use it as a context manager."""

    def __init__(self, lines: pa.Table | None = None, limits: DatabaseLimits | None = None) -> None:
        self._lines = lines
        self._limits = limits or DatabaseLimits()

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="tailrace-logs-")
        self._connection = duckdb.connect()
        try:
            self._make_view(Path(self._folder.name))
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._connection.close()
        self._folder.cleanup()

    @property
    def done(self) -> float:
        """How much of the query is done, in percent; below 0 where that is not known. May be asked by any thread."""
        return float(self._connection.query_progress())

    def ask(self, query: str) -> pa.RecordBatchReader:
        """Return the result of one SELECT, which is computed as it is read. Raises SourceError for what is none.

        This, and reading the result, may raise `FAULTS`, which `fault_of` explains.
        """
        statements = self._connection.extract_statements(query)
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT or self._does_more(query):
            raise SourceError("it is not one SELECT", where="the query", next=_NEXT)
        result: Any = self._connection.sql(query)
        # DuckDB 1.5 has another name for it, and warns of the one before
        arrow = result.to_arrow_reader if hasattr(result, "to_arrow_reader") else result.fetch_record_batch
        found: pa.RecordBatchReader = arrow(BATCH_ROWS)
        names = found.schema.names
        if twice := next((name for place, name in enumerate(names) if name in names[:place]), None):
            raise SourceError(f"two columns are called {twice!r}", where="the query", next="name one otherwise, by AS")
        return found

    def add(self, name: str, lines: pa.Table) -> None:
        """Let queries name a table that is in memory."""
        self._connection.register(name, lines)

    def make(self, name: str, query: str) -> None:
        """Let queries name what a query finds now. May raise as `ask` does."""
        self._connection.execute(f"CREATE OR REPLACE TEMP TABLE {name} AS {query}")

    def _does_more(self, query: str) -> bool:
        """Return whether a SELECT would write, into the files that it may read: DuckDB's own plan says so."""
        if _MAY_DO_MORE.search(query) is None:
            return False
        plans = self._connection.execute(f"EXPLAIN (FORMAT json)\n{query}").fetchall()
        return any(_DOES_MORE.search(name) for _, plan in plans for name in _operators(json.loads(plan)))

    def _make_view(self, folder: Path) -> None:
        assert self._lines is not None
        self._close_off(folder)
        self._connection.register("lines", self._lines)
        self._connection.execute(f"CREATE VIEW log AS SELECT {_columns(self._lines.schema)} FROM lines")

    def _close_off(self, folder: Path, paths: Sequence[str] = ()) -> None:
        """Let queries read these files, and do nothing else."""
        for setting in (
            "TimeZone = 'UTC'", f"temp_directory = {_quoted(str(folder))}", f"threads = {self._limits.threads}",
            f"memory_limit = '{self._limits.memory_mb}MiB'", "enable_progress_bar_print = false",
            "python_enable_replacements = false", f"allowed_paths = [{', '.join(map(_quoted, paths))}]",
            "enable_external_access = false", "lock_configuration = true",
        ):  # fmt: skip
            self._connection.execute(f"SET {setting}")


class LogDatabase(LinesDatabase):
    """A database with the view `log`, over what a reader has found; it may raise duckdb.Error as `ask` does.

    read: how many lines each draft had when it was read, which was when the database was opened.
    """

    def __init__(self, reader: LogReader, limits: DatabaseLimits | None = None) -> None:
        super().__init__(None, limits)
        self._reader = reader
        self.read: dict[LogFile, int] = {}

    def _make_view(self, folder: Path) -> None:
        reader = self._reader
        whole = [lines for lines in reader.files if not lines.file.is_draft]
        drafts = self._drafts([lines for lines in reader.files if lines.file.is_draft])
        columns = folder / "columns.parquet"  # of all files, and of drafts: the others' are cast to them
        pq.write_table(reader.schema.empty_table(), columns)
        paths = [str(columns), *(str(lines.file.path) for lines in whole)]
        self._close_off(folder, paths)
        self._connection.register("drafts", drafts)
        self._connection.execute(
            f"CREATE VIEW log AS SELECT {_columns(reader.schema)} FROM ({self._lines_of(paths, whole)}"
            f" UNION ALL BY NAME SELECT * FROM drafts)"
        )

    def _lines_of(self, paths: Sequence[str], whole: Sequence[FileLines]) -> str:
        """Return the SELECT of the lines of whole files, of the time, each once."""
        reader = self._reader
        conditions = [
            f'"time" {comparison} make_timestamptz({limit})'
            for comparison, limit in ((">=", reader.since_us), ("<", reader.until_us))
            if limit is not None
        ]
        for lines in whole:
            if (places := reader.twice.get(lines.file)) is not None:
                path = _quoted(str(lines.file.path))
                conditions.append(f"NOT (filename = {path} AND file_row_number IN {tuple(places.tolist())})")
        files = ", ".join(map(_quoted, paths))
        where = " AND ".join(conditions) or "true"
        return (
            f"SELECT * EXCLUDE (filename, file_row_number) FROM read_parquet([{files}], union_by_name = true, "
            f"filename = true, file_row_number = true, hive_partitioning = false) WHERE {where}"
        )

    def _drafts(self, drafts: Sequence[FileLines]) -> pa.Table:
        """Return the lines of all drafts, and note how many each had."""
        batches = []
        for lines in drafts:
            self.read[lines.file] = 0
            for batch in self._reader.lines_of(lines, lines.schema.names):
                self.read[lines.file] += batch.num_rows
                batches.append(conformed(batch, self._reader.schema))
        return pa.Table.from_batches(batches, self._reader.schema)


def why_unreadable(path: Path) -> str:
    """Return why DuckDB cannot read a whole file; "" where it can."""
    with duckdb.connect() as connection:
        try:
            connection.execute("SELECT bit_xor(hash(lines)) FROM read_parquet(?) AS lines", [str(path)])
        except duckdb.Error as error:
            return message_of(error)
    return ""


def fault_of(error: BaseException) -> SourceError:
    """Return what is told of a query that DuckDB does not run."""
    text = message_of(error).replace("FROM clause!", "the log")
    hints = [line for line in str(error).splitlines() if line.startswith(("Candidate", "Did you mean"))]
    return SourceError("; ".join([f"the query cannot be run: {text}", *hints[:1]]), where="the query", next=_NEXT)


def _operators(plan: list[dict[str, Any]]) -> Iterator[str]:
    """Give the names of a plan's operators."""
    for operator in plan:
        yield operator["name"]
        yield from _operators(operator.get("children", []))


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _columns(schema: pa.Schema) -> str:
    """Return what is selected of lines."""
    return ", ".join(
        f"CASE WHEN len({quoted_name(name)}) > 0 THEN {quoted_name(name)} END AS {quoted_name(name)}"
        if name in _EMPTY_IS_NULL
        else quoted_name(name)
        for name in schema.names
    )
