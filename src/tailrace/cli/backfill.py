"""`tailrace backfill`: count the history of stream views in, so that a changed view can be served."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from tailrace.cli.durations import duration_ns
from tailrace.errors import SetupError, TailraceError
from tailrace.offline.options import KEEP_OLD, WAIT

if TYPE_CHECKING:
    from tailrace.offline.backfill import BackfillReport
    from tailrace.pipeline import Pipeline


class _Options(NamedTuple):
    """What a run may take, and for how long it waits and keeps."""

    memory_mb: int
    threads: int
    wait_ns: int
    keep_old_ns: int


def backfill(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="The Python file that declares the pipelines.", show_default=False)
    ],
    view: Annotated[
        list[str] | None, typer.Option("--view", metavar="VIEW", help="Only this view; may be given more than once.")
    ] = None,
    store: Annotated[
        str | None, typer.Option(help="Online store in place of the declared ones: lmdb:PATH or redis://HOST:PORT/DB.")
    ] = None,
    memory_mb: Annotated[int, typer.Option(help="Memory that sorting the history may take; the rest spills.")] = 1_024,
    threads: Annotated[int, typer.Option(help="Threads that sorting the history may take.")] = 2,
    wait: Annotated[str, typer.Option(help="How long to wait while another run works on the view.")] = WAIT,
    keep_old: Annotated[
        str, typer.Option(help="How long states of another definition stay once no server uses it; 20m at least.")
    ] = KEEP_OLD,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object for each view.")] = False,
) -> None:
    """Count the history of stream views in, from their streams' sources.

    Of a view that is declared for the first time, or anew: its states lie beside those of the definition before, which
    is served meanwhile. Once the history is in, a server can be started with the changed file. A view that is whole is
    left as it is, and a run that was killed may be made again. States of a definition that no server has used for
    `--keep-old` are removed, once servers use the one that is declared: run it again some days after the change.

    For example:

        tailrace backfill pipeline.py --view CustomerActivity
    """
    from tailrace.compile.loading import load_pipelines
    from tailrace.pipeline import stream_views

    pipelines = load_pipelines(file)
    known = {each.__name__ for pipeline in pipelines for each in stream_views(pipeline)}
    if not known:
        raise SetupError("the file declares no stream view", where=str(file),
                         next="name the file of one that does; `tailrace materialize` fills batch views")  # fmt: skip
    chosen = set(view or known)
    if unknown := chosen - known:
        raise SetupError(f"no stream view is called {min(unknown)!r}", where=str(file),
                         next=f"choose from {', '.join(sorted(known))}")  # fmt: skip
    failed = False
    options = _Options(memory_mb, threads, duration_ns(wait, "--wait"), duration_ns(keep_old, "--keep-old"))
    for pipeline in pipelines:
        for found in _run(pipeline, chosen, store, options):
            if isinstance(found, TailraceError):
                failed = True
                print(f"error: {pipeline.name}: {found}", file=sys.stderr)
            else:
                _print(pipeline, found, as_json=as_json)
    if failed:
        raise typer.Exit(1)


def _run(
    pipeline: Pipeline, chosen: set[str], store: str | None, options: _Options
) -> Iterator[BackfillReport | TailraceError]:
    """Backfill the chosen views of a pipeline, with a progress bar for each on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from tailrace.features.stores.opening import open_writer, resolve_url
    from tailrace.offline.backfill import backfill as run
    from tailrace.offline.backfill import settings_of
    from tailrace.offline.pipeline_views import key_types
    from tailrace.pipeline import stream_views

    specs = [view.spec for view in stream_views(pipeline) if view.__name__ in chosen]
    if not specs:
        return
    settings = settings_of(pipeline.base_dir, key_types(pipeline), options.memory_mb, options.threads)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with (
        closing(open_writer(store or resolve_url(pipeline.store, pipeline.base_dir))) as writer,
        Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bars,
    ):
        for spec in specs:
            task = bars.add_task(spec.name, total=None)

            def show(done: int, total: int, at: int = task) -> None:
                bars.update(at, completed=done, total=total)  # type: ignore[arg-type]

            try:
                yield run(
                    spec, settings, writer, pipeline=pipeline.name, on_progress=show,
                    wait_ns=options.wait_ns, keep_old_ns=options.keep_old_ns,
                )  # fmt: skip
            except TailraceError as error:
                yield error


def _print(pipeline: Pipeline, report: BackfillReport, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"pipeline": pipeline.name, **asdict(report)}), flush=True)
        return
    name = f"{pipeline.name}.{report.view}"
    retired = f"{report.retired:,} states of another definition removed" if report.retired else ""
    if report.was_whole:
        print(f"{name}: it is whole already{retired and '; '}{retired}")
        return
    notes = [
        f"{report.behind:,} behind the cut, counted as they come" if report.behind else "",
        f"{report.before:,} of an earlier run" if report.before else "",
        f"{report.forgotten:,} forgotten" if report.forgotten else "",
        f"{report.bad:,} rows that are no events" if report.bad else "",
        f"{report.ahead:,} ahead of the clock" if report.ahead else "",
        retired,
    ]
    more = "".join(f"; {each}" for each in notes if each)
    print(f"{name}: {report.events:,} events of {report.entities:,} entities in {report.seconds:.1f} s{more}")
