"""`tailrace logs`: what the prediction log has: its last lines, those to come, or what a query in SQL finds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer

from tailrace.cli import log_options as given
from tailrace.cli.durations import time_ns_of
from tailrace.cli.log_table import SHORT, LogTable, tell_of
from tailrace.cli.progress import progress_bar
from tailrace.errors import SetupError
from tailrace.offline.database import MEMORY_MB, THREADS, DatabaseLimits
from tailrace.offline.log.output import csv_header, csv_lines, json_lines, write_parquet

if TYPE_CHECKING:
    import pyarrow as pa

    from tailrace.monitor.log.listing import LogFile
    from tailrace.offline.log.query import Answer, LogQuery

LINES: Final = 20
TABLE_LINES_MAX: Final = 1_000
"""Of what a query finds, in a terminal."""
POLL_S: Final = 0.25


def logs(  # noqa: PLR0917 - one parameter an option
    log: given.Log,
    pipeline: given.PipelineName = None,
    where: given.Where = None,
    columns: given.Columns = None,
    sql: given.Sql = None,
    since: given.Since = None,
    until: given.Until = None,
    lines: given.LinesMax = None,
    follow: given.Follow = False,
    as_json: given.AsJson = False,
    as_csv: given.AsCsv = False,
    parquet: given.ParquetFile = None,
    memory_mb: given.MemoryMb = MEMORY_MB,
    threads: given.Threads = THREADS,
) -> None:
    """Show the prediction log: its last lines, those to come, or what a query in SQL finds.

    Reads what is written now as well. Files that are damaged are named on stderr, and passed over; exit code 1 where
    none can be read. A query may read the log, and nothing else of the machine.

    For example:

        tailrace logs log --where "score > 0.9 AND degraded IS NOT NULL" -n 5
    """
    from tailrace.monitor.log.listing import chosen_log
    from tailrace.monitor.log.reader import LogReader
    from tailrace.offline.log.query import LogQuery, asked, require_duckdb

    ways = [name for name, value in (("--json", as_json), ("--csv", as_csv), ("--parquet", parquet)) if value]
    _check(
        ways, follow=follow, sql=sql, besides={"--where": where, "--columns": columns, "--lines": lines}, until=until
    )
    require_duckdb()
    limits = DatabaseLimits(memory_mb, threads)
    begin_ns, end_ns = time_ns_of(since, "--since"), time_ns_of(until, "--until")
    chosen = chosen_log(log, pipeline)
    names = tuple(each.strip() for each in (columns or "").split(",") if each.strip())
    is_short = not (ways or names or sql)
    query = LogQuery(
        columns=SHORT if is_short else names, known_only=is_short, where=where or "", sql=sql or "",
        lines=(0 if ways and not follow else LINES) if lines is None else lines,
    )  # fmt: skip
    with ExitStack() as opening:
        with progress_bar("reading") as show:
            make_reader = partial(LogReader, log, chosen, since_ns=begin_ns, until_ns=end_ns)
            answer = opening.enter_context(asked(make_reader, query, limits, show))
            if parquet is not None:
                rows = write_parquet(answer.batches, parquet, lambda rows: show("writing", rows, 0))
        if parquet is not None:
            print(f"{parquet}: {rows:,} lines")
        else:
            printer = _Printer(ways, answer.schema, is_short=is_short)
            printer.show_all(answer.batches, TABLE_LINES_MAX if sql and not ways else None)
        tell_of(answer.passed_over)
        if answer.passed_over and not answer.files:
            raise typer.Exit(1)
    if follow:
        _follow(log, chosen, answer, query, printer)


class _Printer:
    """Prints lines in one of three ways."""

    def __init__(self, ways: list[str], schema: pa.Schema, *, is_short: bool) -> None:
        self._table: LogTable | None = None
        self._encode: Callable[[pa.RecordBatch], bytes] | None = None
        if not ways:
            self._table = LogTable(is_short=is_short)
        elif ways == ["--json"]:
            self._encode = json_lines
        else:
            self._encode = csv_lines
            self._write(csv_header(schema))

    def show_all(self, batches: Iterable[pa.RecordBatch], lines_max: int | None = None) -> None:
        """Print lines as they are found; of so many say that there are more."""
        left, rows = lines_max, 0
        for batch in batches:
            rows += batch.num_rows
            self.show(batch if left is None else batch.slice(0, left))
            if left is not None and (left := left - batch.num_rows) < 0:
                print(f"only {lines_max:,} lines are shown: --json, --csv and --parquet give all", file=sys.stderr)
                return
        if self._table is not None and not rows:
            print("no line is found", file=sys.stderr)

    def show(self, lines: pa.RecordBatch) -> None:
        """Print lines."""
        if self._table is not None:
            self._table.show(lines)
        elif self._encode is not None:
            self._write(self._encode(lines))

    def _write(self, data: bytes) -> None:
        sys.stdout.write(data.decode())
        sys.stdout.flush()


def _follow(log: Path, pipeline: str, answer: Answer, query: LogQuery, printer: _Printer) -> None:
    """Print new lines, until Ctrl-C."""
    from tailrace.monitor.log.tail import LogTail
    from tailrace.offline.log.query import asked_of, together

    read: dict[LogFile, int | None] = {file: answer.read.get(file) for file in answer.files}
    query = replace(query, lines=0)
    with suppress(KeyboardInterrupt), closing(LogTail(log, pipeline, read)) as tail:
        while True:
            for lines in together(tail.lines(), answer.log_schema):
                for batch in asked_of(lines, query).to_batches():
                    printer.show(batch)
            time.sleep(POLL_S)


def _check(ways: list[str], *, follow: bool, sql: str | None, besides: Mapping[str, object], until: str | None) -> None:
    """Raise SetupError for options that do not go together."""
    asked = [name for name, value in besides.items() if value is not None]
    for first, second in (
        (ways, ways[1:]), (["--sql"] if sql else [], asked), (["--follow"] if follow else [], ["--sql"] if sql else []),
        (["--follow"] if follow else [], [each for each in ways if each == "--parquet"]),
        (["--follow"] if follow else [], ["--until"] if until else []),
    ):  # fmt: skip
        if first and second:
            raise SetupError(f"{first[0]} and {second[0]} do not go together", where="the command line",
                             next="give one of them")  # fmt: skip
