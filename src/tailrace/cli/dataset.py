"""`tailrace dataset`: labelled requests become a training set."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tailrace.cli.chosen import chosen_pipeline
from tailrace.cli.progress import progress_bar
from tailrace.offline.database import MEMORY_MB, THREADS, DatabaseLimits

if TYPE_CHECKING:
    from tailrace.offline.dataset import DatasetReport


def dataset(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="The Python file that declares the pipeline.", show_default=False)
    ],
    requests: Annotated[
        Path,
        typer.Option(
            help="Labelled requests, Parquet or CSV: a column for each field of the request, any others go along.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="The Parquet file to write.", show_default=False)],
    pipeline: Annotated[
        str | None, typer.Option(metavar="NAME", help="Which pipeline, where the file declares several.")
    ] = None,
    memory_mb: Annotated[
        int, typer.Option(help="Memory that reading the sources may take, in MiB; beyond it DuckDB spills to disk.")
    ] = MEMORY_MB,
    threads: Annotated[int, typer.Option(help="Threads that read a source.")] = THREADS,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Write a training set: labelled requests, each with the features it would have been served with at its time.

    Batch views give the latest row that was true then, stream views their windows over the events before, computed by
    the code that serves; what was not known is the declared default. The columns are named and in the order as the
    pipeline has them, so that `tailrace package` takes the file as it is. More than fits memory is sorted on disk.

    For example:

        tailrace dataset pipeline.py --requests labelled.parquet --out training.parquet
    """
    from tailrace.offline.dataset import write_dataset

    limits = DatabaseLimits(memory_mb, threads)
    chosen = chosen_pipeline(file, pipeline)
    with progress_bar("reading") as show:
        report = write_dataset(chosen, requests, out, limits=limits, on_progress=show)
    if as_json:
        print(json.dumps(asdict(report)))
    else:
        _print(report)


def _print(report: DatasetReport) -> None:
    left_out = f"; {report.left_out:,} left out, since a field is null" if report.left_out else ""
    rate = report.rows / max(report.seconds, 1e-9)
    print(f"{report.path}: {report.rows:,} rows, {len(report.features)} features, in {report.seconds:.1f} s "
          f"({rate:,.0f} rows/s){left_out}")  # fmt: skip
    for view, counts in report.views.items():
        notes = [
            f"{counts.bad:,} bad" if counts.bad else "",
            f"{counts.dropped:,} without an id or repeated" if counts.dropped else "",
            "no time column, so they count for every request" if view in report.timeless else "",
        ]
        print(f"  {view}: from {counts.rows:,} rows" + "".join(f"; {note}" for note in notes if note))
        for row in counts.examples:
            print(f"    {row.where}: {row.why}\n      {row.content}")
