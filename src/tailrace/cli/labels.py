"""`tailrace labels`: what came true of logged requests is kept beside the log."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from tailrace.cli.log_table import tell_of
from tailrace.cli.printing import AsJson, plain
from tailrace.cli.progress import progress_bar
from tailrace.offline.database import MEMORY_MB, THREADS, DatabaseLimits

if TYPE_CHECKING:
    from tailrace.offline.log.labels import LabelsReport

_TOLD: Final = {
    "unknown": "are of requests that the log has no line of",
    "contradicted": "requests have several labels in the file, of which the latest is taken",
    "changed": "requests had another label before, which this one replaces",
}


def labels(
    log: Annotated[Path, typer.Argument(metavar="DIR", help="What `serve --log` was given.", show_default=False)],
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="Labels, Parquet or CSV: request_id, label, and time if it is known.",
            show_default=False,
        ),
    ],
    pipeline: Annotated[
        str | None, typer.Option(metavar="NAME", help="Which pipeline, where the log has several.")
    ] = None,
    memory_mb: Annotated[
        int, typer.Option(help="Memory that the check may take, in MiB; beyond it DuckDB spills to disk.")
    ] = MEMORY_MB,
    threads: Annotated[int, typer.Option(help="Threads that read the log.")] = THREADS,
    as_json: AsJson = False,
) -> None:
    """Keep labels that came later beside the prediction log: what was true of each request.

    They are checked first: ids that the log does not know are counted, and so are labels that contradict each other, or
    those from before. The server then tells how good its predictions are, and `dataset --from-log` trains on them. They
    go with the log, by its age. Exit code 1 where none is of a request that the log has.

    For example:

        tailrace labels log chargebacks.csv
    """
    from tailrace.monitor.log.listing import chosen_log
    from tailrace.offline.log.query import require_duckdb

    require_duckdb()
    from tailrace.offline.log.labels import keep_labels

    chosen = chosen_log(log, pipeline)
    with progress_bar("reading") as show:
        report = keep_labels(log, chosen, file, limits=DatabaseLimits(memory_mb, threads), on_progress=show)
    if as_json:
        print(json.dumps(asdict(report), default=str))
    else:
        _print(report)
    whole = report.kept + report.same
    raise typer.Exit(0 if whole and report.unknown < whole else 1)


def _print(report: LabelsReport) -> None:
    where = f", in {report.path}" if report.path else ""
    print(f"{report.pipeline}: {report.kept:,} of {report.labels:,} labels are new{where}; {report.same:,} are known")
    if report.without:
        print(f"  {report.without:,} rows have no id, or no label, and are left out")
    for name, told in _TOLD.items():
        if count := getattr(report, name):
            print(f"  {count:,} {told}, as {', '.join(map(plain, report.examples[name]))}")
    tell_of(report.passed_over)
