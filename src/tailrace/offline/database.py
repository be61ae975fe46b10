"""The DuckDB database that a source is read with: in memory, bounded, spilling to a folder; and SQL files run in it."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tailrace.deadline import NS_PER_S, parse_duration
from tailrace.errors import SourceError

MEMORY_MB: Final = 1_024
THREADS: Final = 2
MEMORY_MB_MIN: Final = 32
"""DuckDB's own blocks and buffers take about so much before there is a row."""
MEMORY_MB_MAX: Final = 1 << 24
THREADS_MAX: Final = 1_024
QUERY_LIMIT: Final = "6h"
"""How long a query may take that another engine runs, as the command line shows it."""
QUERY_S_MAX: Final = 7 * 86_400

_QUERY_END: Final = re.compile(r";(?:\s|--[^\n]*)*\Z")
_ROWS: Final = b'CREATE TEMP TABLE rows AS SELECT *, row_number() OVER () - 1 AS "$row" FROM (\n'


@dataclass(frozen=True, slots=True)
class DatabaseLimits:
    """What reading a source may take. memory_mb: MiB, beyond which DuckDB spills to a temporary folder.

    query_s: how long a query that another engine runs may take until its last row is here. The defaults leave room for
    a server beside it. Raises SourceError for a value out of range.
    """

    memory_mb: int = MEMORY_MB
    threads: int = THREADS
    query_s: float = parse_duration(QUERY_LIMIT) / NS_PER_S

    def __post_init__(self) -> None:
        for flag, value, least, most in (
            ("--memory-mb", self.memory_mb, MEMORY_MB_MIN, MEMORY_MB_MAX),
            ("--threads", self.threads, 1, THREADS_MAX),
        ):
            if not least <= value <= most:
                raise SourceError(f"{value:,} is out of range", where=flag, next=f"give {least:,} to {most:,}")
        if not 0 < self.query_s <= QUERY_S_MAX:
            raise SourceError(f"{self.query_s:g} s is out of range", where="--query-limit", next="give 1s to 7d")


def open_database(ibis: Any, limits: DatabaseLimits, spill: str, base_dir: Path) -> Any:
    """Return an Ibis connection to a new database in memory.

    spill: the folder for what does not fit. base_dir: what the names of files in a query are relative to.
    """
    connection = ibis.duckdb.connect()
    for setting, value in (
        ("TimeZone", "UTC"), ("temp_directory", spill), ("file_search_path", str(base_dir.resolve())),
        ("memory_limit", f"{limits.memory_mb}MiB"), ("threads", str(limits.threads)),
        ("enable_progress_bar", "false"),  # it would stand on stdout, among what a program reads
    ):  # fmt: skip
        quoted = value.replace("'", "''")
        connection.raw_sql(f"SET {setting} = '{quoted}'")
    return connection


def run_query(connection: Any, path: Path, view: str) -> Any:
    """Return the rows of a SQL file's one SELECT as the table `rows`, with the place of each in `$row`.

    Raises SourceError, with the line and column of the file where DuckDB knows them.
    """
    import duckdb

    query = read_query(path)
    statement = _ROWS + query.encode() + b"\n)"
    try:
        connection.raw_sql("SET errors_as_json = true")
        connection.raw_sql(statement.decode()).fetchall()
    except duckdb.OutOfMemoryException:
        raise
    except duckdb.Error as error:
        where = ":".join([str(path), *_within(query, _locate(error, statement))])
        raise SourceError(f"the query of {view} cannot be run: {message_of(error)}", where=where,
                          next="correct the query: one SELECT of DuckDB's SQL") from None  # fmt: skip
    finally:
        connection.raw_sql("SET errors_as_json = false")
    return connection.table("rows")


def read_query(path: Path) -> str:
    """Return the text of a SQL file without the semicolon at its end, and what stands behind it."""
    return _QUERY_END.sub("", path.read_text(encoding="utf-8"))


def message_of(error: BaseException) -> str:
    """Return the first line of what an error says, or its kind where it says nothing."""
    text = str(_details(error).get("exception_message", error)).strip()
    return (text.splitlines() or [type(error).__name__])[0]


def quoted_name(name: str) -> str:
    """Return the name of a column as SQL has it, whatever is in it."""
    return '"' + name.replace('"', '""') + '"'


def _details(error: BaseException) -> dict[str, Any]:
    """Return the JSON in an error's text; nothing where there is none."""
    text = str(error)
    with suppress(ValueError):
        found = json.loads(text[text.index("{") :])
        return found if isinstance(found, dict) else {}
    return {}


def _locate(error: BaseException, statement: bytes) -> tuple[int, ...]:
    """Return the line and column of the statement that an error is about; () where that is not told.

    DuckDB tells the byte, also of a value that cannot be cast, where its text has no "LINE 4: …".
    """
    position = _details(error).get("position")
    if position is None:
        return ()
    before = statement[: int(position)].decode(errors="ignore")
    return before.count("\n") + 1, len(before) - before.rfind("\n")


def _within(query: str, place: tuple[int, ...]) -> list[str]:
    """Return a place of the statement as one of the file: the line before it is ours, and so is the one behind it."""
    if not place:
        return []
    line, lines = place[0] - 1, query.count("\n") + 1
    return [str(each) for each in (line, *place[1:])] if 1 <= line <= lines else [str(min(max(line, 1), lines))]
