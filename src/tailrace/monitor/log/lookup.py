"""One request of the prediction log, found by its id among millions: in whole files, and in drafts as far as they go.

DuckDB searches the whole files, by the Bloom filters that they have. A draft is searched as the bytes that it is, and
only messages in which the id stands are read: what reads them, pyarrow, is not loaded for anything else.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tailrace.deadline import NS_PER_S
from tailrace.errors import SetupError
from tailrace.monitor.log.listing import PassedOver, chosen_log, log_files, log_pipelines
from tailrace.monitor.log.names import DRAFT, SEALED, VERSION_KEY, why_not_read

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

REQUEST_ID: Final = "request_id"
TRACE: Final = "trace"
HOUR_NS: Final = 3_600 * NS_PER_S
"""Beside a time that is given, files are searched that were written so long before it and after it."""
LINES_MAX: Final = 10_000
"""Of one id that are read: what every request has is no id."""
_MAGIC: Final = b"PAR1"
_ROW: Final = "file_row_number"


class FoundLine(NamedTuple):
    """A line of the log. file: under the log's directory. place: among the lines of the file that were found."""

    pipeline: str
    file: str
    place: int
    values: dict[str, Any]


@dataclass(slots=True)
class Lookup:
    """What was found, and where it was looked for.

    files: whole ones. rows: that they have; None where that was not counted, since the id was found. drafts: files that
    are still written. first_hour, last_hour: of all, "" where there are none.
    """

    lines: list[FoundLine] = field(default_factory=list)
    files: int = 0
    rows: int | None = None
    drafts: int = 0
    first_hour: str = ""
    last_hour: str = ""
    pipelines: list[str] = field(default_factory=list)
    passed_over: list[PassedOver] = field(default_factory=list)


def find_lines(
    root: Path, wanted: str, *, by: str = REQUEST_ID, pipeline: str | None = None, at: datetime | None = None
) -> Lookup:
    """Return all lines of the log whose request id is this one, the oldest first.

    by: the column, `REQUEST_ID` or `TRACE`. pipeline: whose log alone is searched. at: when it was answered, to an
    hour: files of other hours are not searched. Raises SetupError where there is no log, or none of the pipeline, or no
    DuckDB.
    """
    if not root.is_dir():
        raise SetupError("there is no log", where=str(root), next="name the directory of tailrace serve --log")
    paths = _files(root, pipeline, at)
    hours = sorted({path.parent.name for path in paths})
    search = _Search(root, wanted, by)
    search.drafts([path for path in paths if path.suffix == DRAFT])
    search.sealed([path for path in paths if path.suffix == SEALED])
    found = search.found
    found.pipelines = sorted({path.relative_to(root).parts[0] for path in paths})
    found.first_hour, found.last_hour = (hours[0], hours[-1]) if hours else ("", "")
    found.lines.sort(key=lambda each: (str(each.values.get("time")), each.file, each.place))
    return found


def _files(root: Path, pipeline: str | None, at: datetime | None) -> list[Path]:
    """Return the files to be searched, in the order of their hours."""
    since_ns = until_ns = None
    if at is not None:
        at_ns = int(at.timestamp()) * NS_PER_S
        since_ns, until_ns = at_ns - HOUR_NS, at_ns + HOUR_NS
    names = log_pipelines(root) if pipeline is None else [chosen_log(root, pipeline)]
    found = [file for name in names for file in log_files(root, name, since_ns=since_ns, until_ns=until_ns)]
    return [file.path for file in sorted(found, key=lambda file: (file.hour_ns, file.path))]


class _Search:
    """One search. found: what there is so far."""

    def __init__(self, root: Path, wanted: str, by: str) -> None:
        self.found = Lookup()
        self._root, self._wanted, self._by = root, wanted, by

    def drafts(self, paths: Sequence[Path]) -> None:
        """Search files that are still written; one that becomes whole meanwhile is searched as that."""
        became = []
        for path in paths:
            try:
                lines, why = _lines_of_draft(path, self._wanted, self._by)
                self._take(path, lines)
                self.found.drafts += 1
                if why:
                    self._pass_over(path, ValueError(why))
            except FileNotFoundError:
                became.append(path.with_suffix(SEALED))
            except (OSError, ValueError, NotImplementedError, MemoryError) as error:  # the last two: a damaged schema
                self._pass_over(path, error)
        if became:
            self.sealed(became)

    def sealed(self, paths: Sequence[Path]) -> None:
        """Search whole files."""
        whole = [path for path in paths if self._is_whole(path)]
        if not whole:
            return
        duckdb = _duckdb()
        with duckdb.connect() as connection:
            try:
                having = _having(connection, whole, self._wanted, self._by)
                self.found.files += len(whole)
            except duckdb.Error:  # of one file, which is found by asking each
                having = [path for path in whole if self._has_it(connection, duckdb.Error, path)]
            for path in having:
                self._read(connection, duckdb.Error, path)
            if not self.found.lines:
                names = [str(path) for path in whole]
                try:
                    told = connection.execute("SELECT sum(num_rows) FROM parquet_file_metadata(?)", [names]).fetchone()
                except duckdb.Error:  # one is damaged, or went meanwhile
                    return
                self.found.rows = (self.found.rows or 0) + int(told[0] if told and told[0] else 0)

    def _has_it(self, connection: duckdb.DuckDBPyConnection, fault: type[Exception], path: Path) -> bool:
        try:
            has_it = bool(_having(connection, [path], self._wanted, self._by))
        except fault as error:
            self._pass_over(path, error)
            return False
        self.found.files += 1
        return has_it

    def _read(self, connection: duckdb.DuckDBPyConnection, fault: type[Exception], path: Path) -> None:
        """Take the lines of one file, with the columns that it has."""
        query = f"SELECT * FROM read_parquet(?, {_ROW}=true) WHERE {self._by} = ? ORDER BY {_ROW} LIMIT {LINES_MAX}"
        try:
            if why := why_not_read(_version(connection, path)):
                self._pass_over(path, ValueError(why))
                return
            lines = connection.execute(query, [str(path), self._wanted])
            names = [each[0] for each in lines.description or ()]
            self._take(path, [dict(zip(names, line, strict=True)) for line in lines.fetchall()])
        except fault as error:
            self._pass_over(path, error)

    def _is_whole(self, path: Path) -> bool:
        """Return whether a file begins and ends as Parquet does: one damaged file would fail the search of all."""
        try:
            with path.open("rb") as file:
                begin = file.read(len(_MAGIC))
                file.seek(-len(_MAGIC), os.SEEK_END)
                is_whole = begin == _MAGIC and file.read() == _MAGIC
        except FileNotFoundError:  # it was swept
            return False
        except OSError as error:
            self._pass_over(path, error)
            return False
        if not is_whole:
            self._pass_over(path, ValueError("it is cut short, or no Parquet"))
        return is_whole

    def _take(self, path: Path, lines: Sequence[dict[str, Any]]) -> None:
        name = path.relative_to(self._root)
        for place, values in enumerate(lines[: LINES_MAX - len(self.found.lines)]):
            values.pop(_ROW, None)
            self.found.lines.append(FoundLine(name.parts[0], str(name), place, values))

    def _pass_over(self, path: Path, error: Exception) -> None:
        why = (str(error) or type(error).__name__).splitlines()[0][:200]
        self.found.passed_over.append(PassedOver(path, why))


def _duckdb() -> Any:
    """Return DuckDB. Raises SetupError without it."""
    try:
        import duckdb
    except ImportError:
        raise SetupError("DuckDB searches the log, and is not installed", where="duckdb",
                         next="pip install 'tailrace[offline]'") from None  # fmt: skip
    return duckdb


def _having(connection: duckdb.DuckDBPyConnection, paths: Sequence[Path], wanted: str, by: str) -> list[Path]:
    """Return the files that have a text in a column."""
    query = f"SELECT DISTINCT filename FROM read_parquet(?, filename=true) WHERE {by} = ?"
    found = connection.execute(query, [[str(path) for path in paths], wanted]).fetchall()
    return sorted(Path(name) for (name,) in found)


def _version(connection: duckdb.DuckDBPyConnection, path: Path) -> bytes:
    found = connection.execute("SELECT key, value FROM parquet_kv_metadata(?)", [str(path)]).fetchall()
    version: bytes = dict(found).get(VERSION_KEY, b"0")
    return version


def _lines_of_draft(path: Path, wanted: str, by: str) -> tuple[list[dict[str, Any]], str]:
    """Return the lines of a draft, and why not all could be searched; "" where that its end is cut is all.

    The batches in whose bytes the text stands are read, no others. Lengths that are damaged would end the process that
    follows them, so that each is looked through first.
    """
    sought = wanted.encode()
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return [], ""
        with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as whole:
            if whole.find(sought) < 0:
                return [], ""
        import pyarrow as pa
        import pyarrow.compute as pc

        lines: list[dict[str, Any]] = []
        schema: Any = None
        damage = ""
        for message in _messages(pa.ipc.MessageReader.open_stream(file), pa.ArrowException):
            if schema is None:
                schema = pa.ipc.read_schema(message)
                if why := why_not_read((schema.metadata or {}).get(VERSION_KEY, b"0")):
                    raise ValueError(why)
            elif by in schema.names and message.body is not None and sought in message.body.to_pybytes():
                try:
                    batch = pa.ipc.read_record_batch(message, schema)
                    batch.validate(full=True)
                    lines += batch.filter(pc.equal(batch.column(by), wanted)).to_pylist()
                except (pa.ArrowException, UnicodeDecodeError, MemoryError):
                    damage = "a part of it is damaged"  # what comes behind may be whole
        return lines, damage


def _messages(reader: pa.ipc.MessageReader, cut: type[Exception]) -> Iterator[pa.ipc.Message]:
    """Give the messages of a stream up to where it is cut, or damaged."""
    while True:
        try:
            yield reader.read_next_message()
        except (StopIteration, EOFError, OSError, cut):
            return
