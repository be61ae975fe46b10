"""`tailrace bench`: put an open-loop load on a URL and report its tail."""

from __future__ import annotations

import json
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from tailrace.cli.durations import duration_ns
from tailrace.deadline import NS_PER_S
from tailrace.errors import LoadtestError

if TYPE_CHECKING:
    from tailrace.loadtest.plan import LoadPlan
    from tailrace.loadtest.report import LoadReport


def bench(  # noqa: PLR0917 - typer reads each option from a parameter
    url: Annotated[str, typer.Argument(metavar="URL", help="Where to send: http://host:port/path.")],
    unix: Annotated[str | None, typer.Option(metavar="PATH", help="Connect to this Unix socket instead.")] = None,
    rate: Annotated[float, typer.Option(help="Requests a second, sent whatever comes back.")] = 100.0,
    duration: Annotated[str, typer.Option(help="How long to send: 20s, 2m.")] = "10s",
    connections: Annotated[int, typer.Option(help="Keep-alive connections; pipelined when all are busy.")] = 64,
    data: Annotated[str | None, typer.Option("--data", help="One JSON body to POST. Without a body: GET.")] = None,
    body: Annotated[Path | None, typer.Option(help="A file that holds one JSON body.")] = None,
    bodies: Annotated[Path | None, typer.Option(help="A file of JSON bodies, one a line, sent in turn.")] = None,
    header: Annotated[
        list[str] | None, typer.Option("--header", "-H", metavar="HEADER", help="'Name: value'; may be repeated.")
    ] = None,
    arrival: Annotated[str, typer.Option(help="constant (evenly spaced) or poisson (independent).")] = "constant",
    seed: Annotated[int, typer.Option(help="Draws the poisson arrivals.")] = 0,
    budget: Annotated[str, typer.Option(help="What an answer may take; 5% of it bounds the own lag.")] = "50ms",
    processes: Annotated[int, typer.Option(help="Sending processes; one sends over 20,000/s.")] = 1,
    drain: Annotated[str, typer.Option(help="How long to wait for the last answers.")] = "5s",
    spin: Annotated[bool, typer.Option("--spin", help="Never sleep: exact to 1 µs, takes a whole core.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    r"""Put an open-loop load on a URL, and report its latency from when each request was due.

    The schedule is fixed before the run and none is skipped: a server that stops for a second shows that second in
    its tail. A run whose own p99 lag behind the schedule is over 5% of the budget says nothing about the server: it is
    INVALID, and the exit code is 1. So it is when no answer was good (2xx).

    For example:

        tailrace bench http://127.0.0.1:8080/v1/pipelines/fraud/predict \
            --rate 5000 --duration 20s --bodies transactions.jsonl
    """
    from tailrace.loadtest.plan import LoadPlan

    if arrival not in ("constant", "poisson"):
        raise LoadtestError(f"no such arrival: {arrival!r}", where="--arrival", next="use constant or poisson")
    plan = LoadPlan(
        url=url,
        unix=unix,
        bodies=read_bodies(data, body, bodies),
        rate=rate,
        duration_s=duration_ns(duration, "--duration") / NS_PER_S,
        connections=connections,
        arrival=cast(Literal["constant", "poisson"], arrival),
        seed=seed,
        headers=[split_header(line) for line in header or ()],
        budget_ns=duration_ns(budget, "--budget"),
        processes=processes,
        drain_s=duration_ns(drain, "--drain") / NS_PER_S,
        spin=spin,
    )
    report = run_with_progress(plan, quiet=as_json)
    if as_json:
        print(json.dumps(report.as_dict(), indent=2))
    else:
        from rich.console import Console

        from tailrace.loadtest.table import render_report

        Console(highlight=False).print(render_report(report))
    raise typer.Exit(0 if report.valid and report.ok is not None else 1)


def run_with_progress(plan: LoadPlan, *, quiet: bool) -> LoadReport:
    """Run a plan under a progress bar on stderr, which `quiet` leaves out."""
    from tailrace.loadtest.runner import LoadProgress, run_load

    if quiet:
        return run_load(plan)
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    bar = Progress(*columns, TextColumn("{task.fields[counts]}"), console=console, transient=True)
    shown: AbstractContextManager[Any] = bar if sys.stderr.isatty() else nullcontext()
    with shown:
        task = bar.add_task("sending", total=plan.shots, counts="")

        def show(progress: LoadProgress) -> None:
            counts = f"{progress.answered:,} answered" + (f", {progress.failed:,} failed" if progress.failed else "")
            bar.update(task, completed=progress.sent, counts=counts)

        return run_load(plan, show)


def read_bodies(data: str | None, body: Path | None, bodies: Path | None) -> list[bytes]:
    """Return the bodies to send; raise LoadtestError for two sources at once, a missing file or an empty one."""
    if sum(source is not None for source in (data, body, bodies)) > 1:
        raise LoadtestError("more than one source of bodies", where="--data, --body, --bodies", next="give one of them")
    if data is not None:
        return [data.encode()]
    path = body or bodies
    if path is None:
        return []
    try:
        content = path.read_bytes()
    except OSError as error:
        raise LoadtestError(f"cannot read: {error.strerror}", where=str(path), next="check the path") from None
    found = [content] if body else [line for line in content.splitlines() if line.strip()]
    if not content.strip():
        raise LoadtestError("the file is empty", where=str(path), next="write one JSON document a line")
    return found


def split_header(line: str) -> tuple[str, str]:
    """Return the name and value of 'Name: value'."""
    name, colon, value = line.partition(":")
    if not colon:
        raise LoadtestError(f"{line!r} is not a header", where="--header", next="write 'Name: value'")
    return name.strip(), value.strip()
