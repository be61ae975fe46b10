"""`tailrace materialize`: write the views of a pipeline from their sources into the online store."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tailrace.cli.durations import duration_ns
from tailrace.deadline import NS_PER_S
from tailrace.errors import SetupError, TailraceError
from tailrace.offline.database import MEMORY_MB, QUERY_LIMIT, THREADS, DatabaseLimits
from tailrace.offline.options import (
    BATCH_ROWS,
    CLOCK_SKEW,
    KEEP_OLD,
    PRUNE_MAX,
    RESUME_WITHIN,
    WAIT,
    MaterializeOptions,
)

if TYPE_CHECKING:
    from tailrace.offline.materialize import MaterializeReport
    from tailrace.pipeline import Pipeline


def materialize(  # noqa: PLR0917 - one parameter an option
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
    query_limit: Annotated[
        str, typer.Option(help="How long a query on Postgres or Spark may take; then it is ended there.")
    ] = QUERY_LIMIT,
    prune: Annotated[bool, typer.Option("--prune", help="Remove entities that the source no longer has.")] = False,
    prune_max: Annotated[float, typer.Option(help="Largest share of the stored entities that --prune removes.")] = (
        PRUNE_MAX
    ),
    allow_empty: Annotated[
        bool, typer.Option("--allow-empty", help="A source without rows is no error; the store stays as it is.")
    ] = False,
    take_over: Annotated[
        bool, typer.Option("--take-over", help="Overwrite rows of another source or pipeline, and newer ones.")
    ] = False,
    wait: Annotated[str, typer.Option(help="How long to wait while another run writes the view.")] = WAIT,
    resume_within: Annotated[
        str, typer.Option(help="How old an interrupted run may be to be resumed.")
    ] = RESUME_WITHIN,
    clock_skew: Annotated[str, typer.Option(help="How far the source's clock may be ahead of this one.")] = CLOCK_SKEW,
    keep_old: Annotated[
        str, typer.Option(help="How long rows of another schema stay after the new one is whole.")
    ] = KEEP_OLD,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object for each view.")] = False,
) -> None:
    """Write the views of a pipeline from their sources into the online store.

    Of each entity the latest row that is already true is written, and never over a newer one. A running server sees it
    with its next request. A run that is interrupted goes on where it stopped; a bad row is counted and reported, and
    never loses the rest. Run it as often as the data changes, from cron for example.

    For example:

        tailrace materialize examples/fraud/pipeline.py --view CustomerProfile
    """
    options = MaterializeOptions(
        batch_rows=batch_rows, wait_ns=duration_ns(wait, "--wait"),
        resume_ns=duration_ns(resume_within, "--resume-within"), skew_ns=duration_ns(clock_skew, "--clock-skew"),
        keep_old_ns=duration_ns(keep_old, "--keep-old"), allow_empty=allow_empty, prune=prune, prune_max=prune_max,
        take_over=take_over,
        limits=DatabaseLimits(memory_mb, threads, duration_ns(query_limit, "--query-limit") / NS_PER_S),
    )  # fmt: skip
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: no query elsewhere and no file stays behind
    if not _write_all(file, view or (), store, options, as_json=as_json):
        raise typer.Exit(1)


def _write_all(
    file: Path, names: Sequence[str], store: str | None, options: MaterializeOptions, *, as_json: bool
) -> bool:
    """Write the views that are named, or all; return whether none has failed."""
    from tailrace.compile.loading import load_pipelines

    pipelines = load_pipelines(file)
    chosen = _chosen(file, pipelines, names)
    written = [_write(pipeline, store, chosen, options, as_json=as_json) for pipeline in pipelines]
    return all(written)


def _write(
    pipeline: Pipeline, store: str | None, chosen: set[str], options: MaterializeOptions, *, as_json: bool
) -> bool:
    """Write the chosen views of a pipeline, and print what came of each; return whether none has failed."""
    from tailrace.offline.pipeline_views import batch_views

    views, succeeded = chosen & {each.__name__ for each in batch_views(pipeline)}, True
    for name, found in _run(pipeline, store, views, options) if views else ():
        if isinstance(found, TailraceError):
            succeeded = False
            _print_error(pipeline, name, found, as_json=as_json)
        else:
            _print(pipeline, found, as_json=as_json)
    return succeeded


def _chosen(file: Path, pipelines: Sequence[Pipeline], names: Sequence[str]) -> set[str]:
    """Return the views to be written: those named, or all. Raises SetupError for a name of none."""
    from tailrace.offline.pipeline_views import batch_views

    known = {each.__name__ for pipeline in pipelines for each in batch_views(pipeline)}
    if unknown := set(names) - known:
        choice = f"choose from {', '.join(sorted(known))}" if known else "the file declares no batch view"
        raise SetupError(f"no view is called {min(unknown)!r}", where=str(file), next=choice)
    return set(names) or known


def _run(
    pipeline: Pipeline, store: str | None, views: set[str], options: MaterializeOptions
) -> Iterator[tuple[str, MaterializeReport | TailraceError]]:
    """Materialise one pipeline, with a progress bar for each view on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    from tailrace.offline.pipeline_views import materialize_pipeline

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def show(view: str, done: int, total: int) -> None:
            if view not in tasks:
                tasks[view] = bars.add_task(view, total=total)
            bars.update(tasks[view], completed=done)

        yield from materialize_pipeline(pipeline, store=store, views=views, options=options, on_progress=show)


def _print(pipeline: Pipeline, report: MaterializeReport, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"pipeline": pipeline.name, **asdict(report)}), flush=True)
        return
    notes = [
        f"{report.unchanged:,} unchanged" if report.unchanged else "",
        f"{report.older:,} older than the store's, which stay" if report.older else "",
        f"{report.resumed:,} before, by the run that was interrupted" if report.resumed else "",
        f"{report.bad:,} of {report.read:,} rows bad" if report.bad else "",
        f"{report.later:,} rows left for later, since their time is still to come" if report.later else "",
        f"{report.forgotten:,} left out, since they are forgotten" if report.forgotten else "",
        f"{report.pruned:,} removed, since the source no longer has them" if report.pruned else "",
        f"{report.retired:,} rows of another schema removed" if report.retired else "",
    ]
    more = "".join(f"; {note}" for note in notes if note)
    print(f"{pipeline.name}.{report.view}: {report.written:,} rows written in {report.seconds:.1f} s{more}")
    for row in report.examples:
        print(f"  {row.where}: {row.why}\n    {row.content}")


def _print_error(pipeline: Pipeline, view: str, error: TailraceError, *, as_json: bool) -> None:
    if as_json:
        told = {"error": error.what, "where": error.where, "next": error.next}
        print(json.dumps({"pipeline": pipeline.name, "view": view, **told}), flush=True)
    print(f"error: {pipeline.name}.{view}: {error}", file=sys.stderr)
