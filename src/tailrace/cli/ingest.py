"""`tailrace ingest`: count the events of a stream, from Redis, Kafka or a file, into the online store."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from tailrace.features.streams import Stream
    from tailrace.ingest.origin import BrokerOrigin
    from tailrace.ingest.run import IngestReport, StreamWriters
    from tailrace.pipeline import Pipeline


def ingest(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="The Python file that declares the pipelines.", show_default=False)
    ],
    origin: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="ORIGIN",
            show_default=False,
            help="redis://HOST:PORT/DB?stream=KEY, kafka://HOST:PORT,…/TOPIC, or a file: Parquet, CSV, JSON Lines.",
        ),
    ],
    stream: Annotated[
        str | None, typer.Option(metavar="STREAM", help="The stream; its name is needed where there are several.")
    ] = None,
    store: Annotated[
        str | None, typer.Option(help="Online store in place of the declared ones: lmdb:PATH or redis://HOST:PORT/DB.")
    ] = None,
    group: Annotated[str, typer.Option(help="The consumer group; its consumers share the events.")] = "tailrace",
    until_idle: Annotated[bool, typer.Option("--until-idle", help="End once no event comes.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object at the end.")] = False,
) -> None:
    """Count the events of a stream in, from Redis, Kafka or a file.

    Runs until it is stopped, with SIGTERM or Ctrl-C; of a file, to its end. Each event is counted once, also where it
    comes again after a restart. What is too old, ahead of the clock or cannot be read is left out, and told at the end.

    For example:

        tailrace ingest pipeline.py --from 'redis://127.0.0.1:6379/0?stream=payments'
    """
    from tailrace.compile.loading import load_pipelines
    from tailrace.deadline import MonotonicClock
    from tailrace.ingest.origin import BrokerOrigin, file_of, stream_named
    from tailrace.ingest.routes import streams_of
    from tailrace.ingest.run import StreamWriters
    from tailrace.ingest.use import tell_lapses

    pipelines = load_pipelines(file)
    source = file_of(origin) or BrokerOrigin.parse(origin)
    chosen = stream_named(streams_of(pipelines), stream or "", where=str(file), option="--stream")
    with closing(StreamWriters(chosen, pipelines, _url_of(store), MonotonicClock())) as writers:
        tell_lapses(writers.lapses, _warn)
        if isinstance(source, Path):
            report = _ingest_file(source, chosen, writers)
        else:
            report = _ingest_stream(source, chosen, writers, group, until_idle=until_idle)
    _print(report, as_json=as_json)
    if report.events and not report.counted + report.duplicate:
        raise typer.Exit(1)


def _warn(what: str, **more: str) -> None:
    print(f"warning: {what}: {more['view']}, {more['span']}; {more['next']}", file=sys.stderr)


def _url_of(store: str | None) -> Callable[[Pipeline], str]:
    from tailrace.features.stores.opening import resolve_url

    return lambda pipeline: store or resolve_url(pipeline.store, pipeline.base_dir)


def _ingest_file(path: Path, stream: Stream, writers: StreamWriters) -> IngestReport:
    """Count a file's events, with a progress bar on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from tailrace.ingest.files import EventFile
    from tailrace.ingest.run import ingest_pages

    columns = None if stream.source is None else stream.source.columns
    events = EventFile(path, stream, columns)
    bars = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*bars, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task(stream.name, total=events.total)
        return ingest_pages(stream, events.pages(), writers, lambda rows: progress.advance(task, rows))


def _ingest_stream(
    origin: BrokerOrigin, stream: Stream, writers: StreamWriters, group: str, *, until_idle: bool
) -> IngestReport:
    """Count what comes until SIGTERM or SIGINT, with a line of figures on a terminal's stderr."""
    from rich.console import Console

    from tailrace.ingest.run import ingest_stream

    stopped: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: stopped.append(received))
    console = Console(stderr=True)
    with console.status(f"{stream.name}: waiting for events") as status:

        def show(report: IngestReport, lag: int | None) -> None:
            rate = report.events / report.seconds if report.seconds else 0.0
            left = "" if lag is None else f", {lag:,} to come"
            status.update(f"{stream.name}: {report.counted:,} counted, {rate:,.0f}/s{left}")

        with closing(origin.open(stream, group=group)) as consumer:
            return ingest_stream(stream, consumer, writers, lambda: bool(stopped), show, until_idle=until_idle)


def _print(report: IngestReport, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(asdict(report)), flush=True)
        return
    left_out: list[Any] = [
        f"{report.duplicate:,} counted before" if report.duplicate else "",
        f"{report.late:,} too old" if report.late else "",
        f"{report.future:,} ahead of the clock" if report.future else "",
        f"{report.forgotten:,} of forgotten entities" if report.forgotten else "",
        f"{report.poison:,} that cannot be read" if report.poison else "",
    ]
    more = "".join(f"; {each}" for each in left_out if each)
    print(f"{report.stream}: {report.counted:,} events counted in {report.seconds:.1f} s{more}")
    for example in report.examples:
        print(f"  {example}", file=sys.stderr)
