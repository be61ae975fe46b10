"""The `tailrace` command. Each subcommand lives in a file of its own; here they are only listed."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from tailrace.cli.accepted import accepted
from tailrace.cli.backfill import backfill
from tailrace.cli.bench import bench
from tailrace.cli.check import check
from tailrace.cli.consistency import consistency
from tailrace.cli.dataset import dataset
from tailrace.cli.explain import explain
from tailrace.cli.export import proto
from tailrace.cli.export_gateways import COMMANDS as GATEWAYS
from tailrace.cli.export_monitoring import COMMANDS as MONITORING
from tailrace.cli.export_openapi import openapi
from tailrace.cli.features import features
from tailrace.cli.forget import forget
from tailrace.cli.import_feast import import_feast
from tailrace.cli.ingest import ingest
from tailrace.cli.keys import COMMANDS as KEYS
from tailrace.cli.labels import labels
from tailrace.cli.logs import logs
from tailrace.cli.materialize import materialize
from tailrace.cli.models.commands import COMMANDS as MODELS
from tailrace.cli.optimize import optimize
from tailrace.cli.package import package
from tailrace.cli.printing import plain
from tailrace.cli.record import record
from tailrace.cli.replay import replay
from tailrace.cli.score import score
from tailrace.cli.serve import serve
from tailrace.cli.status import status
from tailrace.cli.top import top
from tailrace.errors import TailraceError
from tailrace.version import VERSION

app = typer.Typer(
    name="tailrace",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def help_of(command: Callable[..., Any]) -> str:
    """Return a command's docstring with the lines of each paragraph joined, so that a terminal may wrap them itself.

    An indented example stays as it is written.
    """
    return re.sub(r"(?<=\S)\n(?=\S)", " ", inspect.getdoc(command) or "")


def show_version(wanted: bool) -> None:
    """Print the version and leave, where it was asked for."""
    if wanted:
        print(f"tailrace {VERSION}")
        raise typer.Exit


def tailrace(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Serve machine-learning decisions in real time, inside a latency budget.

    From labelled requests to a served decision: declare a pipeline in a Python file, make a training set, package the
    model that was trained on it, check, materialize the features, serve, compare what was served with what training
    would have, and put a load on it with bench.
    """


app.callback(help=help_of(tailrace))(tailrace)
for command in (
    dataset,
    package,
    optimize,
    check,
    materialize,
    ingest,
    backfill,
    features,
    forget,
    serve,
    status,
    top,
    logs,
    labels,
    accepted,
    explain,
    score,
    consistency,
    bench,
    record,
    replay,
    import_feast,
):
    app.command(help=help_of(command))(command)

export = typer.Typer(name="export", no_args_is_help=True, rich_markup_mode="rich")
export.command("proto", help=help_of(proto))(proto)
export.command("openapi", help=help_of(openapi))(openapi)
for name, command in (GATEWAYS | MONITORING).items():
    export.command(name, help=help_of(command))(command)
app.add_typer(
    export,
    help="Write what others need of a pipeline: messages, the HTTP API, what stands before servers or watches them.",
)

models = typer.Typer(name="models", no_args_is_help=True, rich_markup_mode="rich")
for name, command in MODELS.items():
    models.command(name, help=help_of(command))(command)
app.add_typer(
    models, help="Keep versions of models in a registry: list, register, compare, alias, tag, verify, delete."
)

keys = typer.Typer(name="keys", no_args_is_help=True, rich_markup_mode="rich")
for name, command in KEYS.items():
    keys.command(name, help=help_of(command))(command)
app.add_typer(keys, help="Make the API keys of a server, list them, and revoke one.")


def main() -> None:
    """Run the command line; print an error as what, where and what next, and exit with 1."""
    try:
        app()
    except TailraceError as error:
        told = "\n".join(map(plain, str(error).splitlines()))
        print(f"error: {told}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
