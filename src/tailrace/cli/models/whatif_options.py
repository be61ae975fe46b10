"""The options of `tailrace models whatif`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

One = Annotated[
    str,
    typer.Argument(
        metavar="A", help="A version (NAME@NUMBER or NAME@ALIAS), model directory or FILE.py.", show_default=False
    ),
]
Other = Annotated[
    str, typer.Argument(metavar="B", help="The other one, which might take its place.", show_default=False)
]
Requests = Annotated[
    Path,
    typer.Option(
        help="Requests, JSON lines or Parquet; or what `serve` wrote with --sample-requests FILE, or --log DIR.",
        show_default=False,
    ),
]
PipelineFile = Annotated[
    str | None,
    typer.Option(metavar="FILE[:NAME]", help="The pipeline that versions and model directories score for."),
]
ModelName = Annotated[
    str | None, typer.Option(metavar="NAME", help="Which of its models they replace, where that is not clear.")
]
Registry = Annotated[
    str | None,
    typer.Option(envvar="TAILRACE_REGISTRY", help="Where versions are: a directory, s3://BUCKET/PREFIX, or a URL."),
]
Store = Annotated[str | None, typer.Option(help="Online store to read in place of the declared: lmdb:PATH, redis://…")]
Amount = Annotated[
    str | None,
    typer.Option(metavar="FIELD", help="The field of a request that is money; a number `amount` without it."),
]
Outcomes = Annotated[
    Path | None, typer.Option(help="What became of requests, Parquet or CSV: their ids, and a column of outcomes.")
]
Label = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="The column of outcomes; without --outcomes, what has it in each line."),
]
RequestId = Annotated[
    str | None,
    typer.Option("--id", metavar="FIELD", help="The field that tells requests apart; a stream's, or `id`."),
]
Limit = Annotated[int | None, typer.Option(min=1, help="Requests that are replayed at most.")]
Plot = Annotated[Path | None, typer.Option(metavar="FILE", help="Draw a picture: FILE.png or FILE.svg.")]
