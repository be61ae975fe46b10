"""`tailrace models whatif`: what another version would have decided on the same requests."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from tailrace.cli.dataset_options import Since, Until
from tailrace.cli.durations import time_ns_of
from tailrace.cli.models import whatif_options as given
from tailrace.cli.models.options import TrustedKeys, carried
from tailrace.cli.printing import AsJson

if TYPE_CHECKING:
    from tailrace.offline.whatif.replay import OnPage
    from tailrace.offline.whatif.report import WhatIf


def whatif(  # noqa: PLR0917 - one parameter an option
    one: given.One,
    other: given.Other,
    requests: given.Requests,
    pipeline: given.PipelineFile = None,
    model: given.ModelName = None,
    registry: given.Registry = None,
    trusted_key: TrustedKeys = None,
    store: given.Store = None,
    amount: given.Amount = None,
    outcomes: given.Outcomes = None,
    label: given.Label = None,
    request_id: given.RequestId = None,
    since: Since = None,
    until: Until = None,
    limit: given.Limit = None,
    plot: given.Plot = None,
    as_json: AsJson = False,
) -> None:
    """Replay requests through two versions: the decisions that flip, what they are worth, and why.

    A and B are versions or model directories, each put into the pipeline of --pipeline; or two pipeline files. Features
    of sampled requests are as they were served. Those of plain requests are read from the pipeline's store as it is
    now, for both at once. Nothing is written but the picture. Exit code 1 where no
    request was decided by both.

    For example:

        tailrace models whatif fraud@production fraud@7 --pipeline pipeline.py --requests samples.jsonl --plot flips.png
    """
    from tailrace.cli.models.whatif_report import print_report, to_json
    from tailrace.offline.whatif.replay import Asking, what_if
    from tailrace.offline.whatif.sides import Place, find_sides
    from tailrace.release.registry.child import RegistryChoice

    _check_plot(plot)
    choice = RegistryChoice(registry, tuple(map(str, trusted_key or ())))
    _check_times(requests, {"--since": since, "--until": until})
    asking = Asking(
        requests=requests, store=store, amount=amount, outcomes=outcomes, label=label, id_field=request_id, limit=limit,
        since_ns=time_ns_of(since, "--since"), until_ns=time_ns_of(until, "--until"),
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="tailrace-whatif-") as folder:
        with carried("fetching") as on_fetch:
            sides = find_sides(one, other, Place(pipeline, model, choice, Path(folder), on_fetch))
        with _bar() as on_page:
            found = what_if(sides, asking, on_page)
    drawn = None if plot is None else _draw(found, plot)
    if as_json:
        print(to_json(found, drawn))
    else:
        print_report(found, drawn)
    raise typer.Exit(0 if found.rows else 1)


def _check_times(requests: Path, times: dict[str, str | None]) -> None:
    """Raise SetupError for times of what has none."""
    from tailrace.errors import SetupError

    if not requests.is_dir() and (given := [name for name, value in times.items() if value]):
        raise SetupError(f"{given[0]} is about a log", where="the command line", next="give a log: --requests DIR")


def _check_plot(plot: Path | None) -> None:
    """Raise SetupError for a picture of no kind that can be drawn."""
    from tailrace.errors import SetupError

    if plot is not None and plot.suffix.lower() not in {".png", ".svg"}:
        raise SetupError("a picture is a .png or an .svg", where=f"--plot {plot}", next="name it FILE.png")


@contextmanager
def _bar() -> Iterator[OnPage]:
    """Show how far the requests have come, on stderr, and only to a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description:<24}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task("compiling", total=None)
        yield lambda done, read, whole: progress.update(
            task, description=f"{done:,} requests", completed=read, total=whole
        )


def _draw(found: WhatIf, path: Path) -> Path | None:
    """Draw the picture; return where, or None where there is none, which is said."""
    from tailrace.offline.whatif.picture import draw_picture

    if not found.rows:
        print("no picture is drawn: no request was decided by both", file=sys.stderr)
        return None
    try:
        draw_picture(found, path)
    except ImportError:
        print("no picture is drawn: Matplotlib comes with tailrace[package]", file=sys.stderr)
        return None
    except OSError as error:
        print(f"no picture is drawn: {path}: {error.strerror or error}", file=sys.stderr)
        return None
    return path
