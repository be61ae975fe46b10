"""`tailrace score`: a Parquet file of requests is scored as they would be served."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from tailrace.cli.chosen import chosen_pipeline
from tailrace.cli.progress import progress_bar


def score(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="The Python file that declares the pipeline.", show_default=False)
    ],
    requests: Annotated[
        Path,
        typer.Option(
            help="Requests, Parquet: a column for each field of the request, any others go along.", show_default=False
        ),
    ],
    out: Annotated[Path, typer.Option(help="The Parquet file to write.", show_default=False)],
    pipeline: Annotated[
        str | None, typer.Option(metavar="NAME", help="Which pipeline, where the file declares several.")
    ] = None,
    store: Annotated[
        str | None, typer.Option(help="Online store in place of the declared: lmdb:PATH, redis://…")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Score a Parquet file of requests through the pipeline that serves, and write each with its answer.

    A column is added for each field of the response, `degraded`, and `error`, which says why a request has no answer.
    None is replaced: where a name is taken, it is answer_NAME.
    Features are read from the store as it is now; nothing is written to it. Exit code 1 where no request was answered.

    For example:

        tailrace score pipeline.py --requests payments.parquet --out scored.parquet
    """
    from tailrace.offline.scoring import score_file

    chosen = chosen_pipeline(file, pipeline)
    with progress_bar("scoring") as show:
        report = score_file(
            chosen, requests, out, store=store, on_page=lambda done, whole: show("scoring", done, whole)
        )
    if as_json:
        print(json.dumps(asdict(report)))
    else:
        print(f"{report.path}: {report.requests:,} requests, {report.refused:,} without an answer, "
              f"{report.degraded:,} degraded")  # fmt: skip
        for example in report.examples:
            print(f"  {example}", file=sys.stderr)
    raise typer.Exit(1 if report.requests and report.refused == report.requests else 0)
