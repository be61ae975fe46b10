"""Questions to the prediction log: some of its columns, under a condition, the newest lines; or a SELECT over all."""

from __future__ import annotations

import difflib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tailrace.errors import SetupError, SourceError
from tailrace.monitor.log.listing import PassedOver
from tailrace.monitor.log.reader import LogReader
from tailrace.offline.database import DatabaseLimits, quoted_name

if TYPE_CHECKING:
    import pyarrow as pa

    from tailrace.monitor.log.listing import LogFile
    from tailrace.offline.log.database import LinesDatabase

TRIES_MAX: Final = 4
"""How often a question is asked anew, since files went that were there a moment before, or are damaged."""
PROGRESS_S: Final = 0.1
_WHOLE_PERCENT: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class LogQuery:
    """What is asked. sql: a SELECT over the view `log`, in place of all others.

    columns: by name, those of structs as STRUCT.NAME; empty for all. known_only: leave out those that the log does not
    have. where: a condition in SQL. lines: how many of the
    newest, the oldest of them first; 0 for all, in the order in which they were written.
    """

    columns: tuple[str, ...] = ()
    known_only: bool = False
    where: str = ""
    lines: int = 0
    sql: str = ""

    def statement(self, schema: pa.Schema) -> str:
        """Return it as SQL. Raises SetupError for a column that the log does not have."""
        if self.sql:
            return self.sql
        names = [name for name in self.columns if not self.known_only or name in schema.names]
        columns = ", ".join(f"{_column(name, schema)} AS {quoted_name(name)}" for name in names) or "*"
        found = "SELECT * FROM log"
        if self.where:
            found += f" WHERE (\n{self.where}\n)"
        if not self.lines:
            return f"SELECT {columns} FROM ({found})"
        order = ", ".join(name for name in ("time", "request_id", "row") if name in schema.names)
        return f"SELECT {columns} FROM ({found} ORDER BY time DESC LIMIT {self.lines}) ORDER BY {order}"


@dataclass(slots=True)
class Answer:
    """What the log says. passed_over: the files that were not read. read: the lines of each draft that were."""

    batches: Iterator[pa.RecordBatch]
    schema: pa.Schema
    log_schema: pa.Schema
    passed_over: Sequence[PassedOver]
    read: dict[LogFile, int]
    files: Sequence[LogFile]


@contextmanager
def asked(
    make_reader: Callable[[], LogReader],
    query: LogQuery,
    limits: DatabaseLimits,
    on_progress: Callable[[str, int, int], None],
) -> Iterator[Answer]:
    """Give the answer to a question, a part in memory at a time. Raises SourceError for one that cannot be answered.

    on_progress: is told of percents, by a thread, until the first lines are there.
    """
    require_duckdb()
    from tailrace.offline.log.database import FAULTS, LogDatabase, fault_of

    damaged: list[PassedOver] = []
    for left in range(TRIES_MAX, 0, -1):
        with ExitStack() as opening:
            reader = make_reader()
            reader.leave_out(damaged)
            try:
                database = opening.enter_context(LogDatabase(reader, limits))
                result = database.ask(query.statement(reader.schema))
                with _showing(database, on_progress):
                    first = next(result, None)
            except FAULTS as error:
                found = _damaged(reader, error, on_progress)
                if left > 1 and (found or _has_gone(reader)):
                    damaged += found
                    continue
                raise (_gone(reader) if isinstance(error, FileNotFoundError) else fault_of(error)) from None
            batches = _batches(first, result, reader)
            files = [lines.file for lines in reader.files]
            yield Answer(batches, result.schema, reader.schema, reader.passed_over, database.read, files)
            return


def asked_of(lines: pa.Table, query: LogQuery) -> pa.Table:
    """Return what lines that are at hand say to a question. Raises SourceError."""
    require_duckdb()
    from tailrace.offline.log.database import FAULTS, LinesDatabase, fault_of

    try:
        with LinesDatabase(lines) as database:
            return database.ask(query.statement(lines.schema)).read_all()
    except FAULTS as error:
        raise fault_of(error) from None


def together(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.Table]:
    """Give lines with the columns of a schema, and those that are new: all that go together at once."""
    import pyarrow as pa

    from tailrace.monitor.log.schemas import conformed, united

    held: list[pa.RecordBatch] = []
    for batch in batches:
        both, apart = united([schema, batch.schema])
        if apart and held:
            yield pa.Table.from_batches([conformed(each, schema) for each in held], schema)
            held = []
        schema = batch.schema.remove_metadata() if apart or both is None else both
        held.append(batch)
    if held:
        yield pa.Table.from_batches([conformed(each, schema) for each in held], schema)


def require_duckdb() -> None:
    """Raise SetupError where DuckDB is not installed."""
    try:
        import duckdb  # noqa: F401 - whether it is there
        import pyarrow  # noqa: F401 - whether it is there
    except ImportError as error:
        raise SetupError(f"asking the log needs {error.name}", next="pip install 'tailrace[offline]'") from None


def _batches(first: Any, result: Any, reader: LogReader) -> Iterator[pa.RecordBatch]:
    """Give the parts of a result; say what is wrong where the rest of them cannot be read."""
    from tailrace.offline.log.database import FAULTS, fault_of

    try:
        if first is not None:
            yield first
            yield from result
    except FAULTS as error:
        raise (_gone(reader) if _has_gone(reader) else fault_of(error)) from None


def _has_gone(reader: LogReader) -> bool:
    return any(lines.file.is_gone for lines in reader.files)


def _gone(reader: LogReader) -> SourceError:
    return SourceError("files of the log went while it was read", where=reader.pipeline,
                       next="ask again; --since leaves out the old ones, which go first")  # fmt: skip


def _damaged(reader: LogReader, error: Exception, on_progress: Callable[[str, int, int], None]) -> list[PassedOver]:
    """Return the files that are damaged, where that may be why a query failed: each is read whole.

    By Arrow, which says what is wrong with values too, and where it finds nothing by DuckDB, which takes fewer.
    """
    import duckdb

    about_files = (duckdb.InvalidInputException, duckdb.IOException, duckdb.InternalException)
    is_other = (
        isinstance(error, duckdb.Error) and not isinstance(error, about_files) and type(error) is not duckdb.Error
    )
    if is_other or isinstance(error, FileNotFoundError):
        return []
    before = len(reader.passed_over)
    for done, _ in enumerate(reader.batches()):
        on_progress("looking for damaged files", done, 0)
    if found := reader.passed_over[before:]:
        return found
    from tailrace.offline.log.database import why_unreadable

    whole = (lines.file.path for lines in reader.files if not lines.file.is_draft and not lines.file.is_gone)
    return [PassedOver(path, why) for path in whole if (why := why_unreadable(path))]


@contextmanager
def _showing(database: LinesDatabase, on_progress: Callable[[str, int, int], None]) -> Iterator[None]:
    """Tell of how much of a query is done while the block runs."""
    ending = threading.Event()

    def show() -> None:
        while not ending.wait(PROGRESS_S):
            if (percent := database.done) >= 0:
                on_progress("reading", int(percent), _WHOLE_PERCENT)

    thread = threading.Thread(target=show, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()


def _column(name: str, schema: pa.Schema) -> str:
    """Return a column, or one of a struct, as SQL. Raises SetupError."""
    if name in schema.names:
        return quoted_name(name)
    struct, _, field = name.partition(".")
    known = {f"{each.name}.{part.name}" for each in schema if hasattr(each.type, "fields") for part in each.type.fields}
    if name in known:
        return f"{quoted_name(struct)}.{quoted_name(field)}"
    near = difflib.get_close_matches(name, [*schema.names, *known], 3) or schema.names
    raise SetupError(f"the log has no column {name!r}", where="--columns", next=f"name one of {', '.join(near)}")
