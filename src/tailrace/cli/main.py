"""The `tailrace` command. Each subcommand lives in a file of its own; here they are only listed."""

from __future__ import annotations

import sys

import typer

from tailrace.cli.bench import bench
from tailrace.cli.check import check
from tailrace.cli.materialize import materialize
from tailrace.cli.package import package
from tailrace.cli.serve import serve
from tailrace.errors import TailraceError

app = typer.Typer(
    name="tailrace",
    help="Serve machine-learning decisions in real time, inside a latency budget.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
for command in (check, package, materialize, serve, bench):
    app.command()(command)


def main() -> None:
    """Run the command line; print an error as what, where and what next, and exit with 1."""
    try:
        app()
    except TailraceError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
