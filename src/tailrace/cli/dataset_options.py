"""The options of `tailrace dataset`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

PipelineFile = Annotated[
    Path, typer.Argument(metavar="FILE", help="The Python file that declares the pipeline.", show_default=False)
]
Out = Annotated[Path, typer.Option(help="The Parquet file to write.", show_default=False)]
Requests = Annotated[
    Path | None,
    typer.Option(
        help="Labelled requests, Parquet or CSV: a column for each field of the request, any others go along."
    ),
]
FromLog = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="In place of --requests: the prediction log, which `serve --log` was given."),
]
Labels = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Of a log: labels, Parquet or CSV with request_id and label, in place of those kept."
    ),
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Of a log: only lines of which every view was fresh.")]
Unlabelled = Annotated[bool, typer.Option("--unlabelled", help="Of a log: lines without a label, too.")]
FeaturesOnly = Annotated[
    bool, typer.Option("--features-only", help="Of a log: without the other fields of the requests.")
]
Since = Annotated[
    str | None, typer.Option(metavar="TIME", help="Of a log: only what was answered since: 30d ago, or an ISO time.")
]
Until = Annotated[str | None, typer.Option(metavar="TIME", help="Of a log: only what was answered before.")]
PipelineName = Annotated[
    str | None, typer.Option(metavar="NAME", help="Which pipeline, where the file declares several.")
]
MemoryMb = Annotated[
    int, typer.Option(help="Memory that reading the sources may take, in MiB; beyond it DuckDB spills to disk.")
]
Threads = Annotated[int, typer.Option(help="Threads that read a source.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]
