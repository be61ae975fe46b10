"""`tailrace materialize`: write the views of a pipeline from their sources into the online store."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tailrace.errors import SetupError
from tailrace.offline.database import MEMORY_MB, THREADS, DatabaseLimits

if TYPE_CHECKING:
    from tailrace.offline.materialize import MaterializeReport
    from tailrace.pipeline import Pipeline

BATCH_ROWS = 10_000


def materialize(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="The Python file that declares the pipelines.", show_default=False)
    ],
    view: Annotated[
        list[str] | None, typer.Option("--view", metavar="VIEW", help="Only this view; may be given more than once.")
    ] = None,
    store: Annotated[
        str | None, typer.Option(help="Online store in place of the declared one: lmdb:PATH or redis://HOST:PORT/DB.")
    ] = None,
    batch_rows: Annotated[int, typer.Option(help="Rows written at a time; a killed run repeats at most these.")] = (
        BATCH_ROWS
    ),
    memory_mb: Annotated[
        int, typer.Option(help="Memory that reading a source may take, in MiB; beyond it DuckDB spills to disk.")
    ] = MEMORY_MB,
    threads: Annotated[int, typer.Option(help="Threads that read a source.")] = THREADS,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object for each view.")] = False,
) -> None:
    """Write the views of a pipeline from their sources into the online store.

    Of each entity the latest row that is already true is written. A running server sees it with its next request. A
    run that is interrupted goes on where it stopped; a bad row is counted and reported, and never loses the rest. Run
    it as often as the data changes, from cron for example.

    For example:

        tailrace materialize examples/fraud/pipeline.py --view CustomerProfile
    """
    from tailrace.compile.loading import load_pipelines

    limits = DatabaseLimits(memory_mb, threads)
    pipelines = load_pipelines(file)
    chosen = set(view or ())
    known = {each.__name__ for pipeline in pipelines for each in pipeline.views}
    if chosen - known:
        choice = f"choose from {', '.join(sorted(known))}" if known else "the file declares no view"
        raise SetupError(f"no view is called {min(chosen - known)!r}", where=str(file), next=choice)
    if batch_rows < 1:
        raise SetupError(f"{batch_rows} rows cannot be a batch", where="--batch-rows", next="give 1 or more")
    for pipeline in pipelines:
        views = {each.__name__ for each in pipeline.views} & (chosen or known)
        for report in _run(pipeline, store, views, batch_rows, limits) if views else ():
            _print(pipeline, report, as_json=as_json)


def _run(
    pipeline: Pipeline, store: str | None, views: set[str], batch_rows: int, limits: DatabaseLimits
) -> list[MaterializeReport]:
    """Materialise one pipeline, with a progress bar for each view on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    from tailrace.offline.materialize import materialize_pipeline

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def show(view: str, done: int, total: int) -> None:
            if view not in tasks:
                tasks[view] = bars.add_task(view, total=total)
            bars.update(tasks[view], completed=done)

        return materialize_pipeline(
            pipeline, store=store, views=views, batch_rows=batch_rows, on_progress=show, limits=limits
        )


def _print(pipeline: Pipeline, report: MaterializeReport, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"pipeline": pipeline.name, **asdict(report)}))
        return
    notes = [
        f"{report.resumed:,} before, by the run that was interrupted" if report.resumed else "",
        f"{report.bad:,} of {report.read:,} rows bad" if report.bad else "",
        f"{report.later:,} rows left for later, since their time is still to come" if report.later else "",
    ]
    more = "".join(f"; {note}" for note in notes if note)
    print(f"{pipeline.name}.{report.view}: {report.written:,} rows written in {report.seconds:.1f} s{more}")
    for row in report.examples:
        print(f"  {row.where}: {row.why}\n    {row.content}")
