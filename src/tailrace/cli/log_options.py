"""The options of `tailrace logs`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Log = Annotated[Path, typer.Argument(metavar="DIR", help="What `serve --log` was given.", show_default=False)]
PipelineName = Annotated[
    str | None, typer.Argument(metavar="PIPELINE", help="Which pipeline, where the log has several.")
]
Where = Annotated[
    str | None, typer.Option(metavar="SQL", help="Only lines of which this is true, as in 'score > 0.9'.")
]
Columns = Annotated[
    str | None,
    typer.Option(metavar="A,B", help="Only these, in this order; those of a struct are STRUCT.NAME."),
]
Sql = Annotated[
    str | None, typer.Option("--sql", metavar="SELECT", help="A query of DuckDB's SQL, over a view named `log`.")
]
Since = Annotated[
    str | None, typer.Option(metavar="TIME", help="Only what was answered since: 10m ago, or an ISO time.")
]
Until = Annotated[str | None, typer.Option(metavar="TIME", help="Only what was answered before.")]
LinesMax = Annotated[
    int | None,
    typer.Option("--lines", "-n", min=0, help="Only the newest; 0 for all. 20 in a table, else all."),
]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Show new lines as they come, until Ctrl-C.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print each line as JSON.")]
AsCsv = Annotated[bool, typer.Option("--csv", help="Print lines as CSV, with a header.")]
ParquetFile = Annotated[Path | None, typer.Option(metavar="FILE", help="Write lines to a Parquet file.")]
MemoryMb = Annotated[int, typer.Option(help="Memory that the query may take, in MiB; beyond it DuckDB spills to disk.")]
Threads = Annotated[int, typer.Option(help="Threads that read the log.")]
