"""`tailrace export prometheus` and `grafana`: the built-in alerts as rules, and a dashboard, for who has these."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

if TYPE_CHECKING:
    from tailrace.pipeline import Pipeline

Files = Annotated[
    list[Path], typer.Argument(metavar="FILE", help="Python files that declare pipelines.", show_default=False)
]


Runbooks = Annotated[
    str, typer.Option(metavar="URL", help="Where the runbooks are, which alerts name: a server's admin port has them.")
]


def prometheus(files: Files, runbooks: Runbooks = "http://127.0.0.1:8081/runbooks") -> None:
    """Print the built-in alerts of these pipelines as rules of Prometheus, which sees all servers together.

    For example:

        tailrace export prometheus pipeline.py > tailrace.rules.yml
    """
    from tailrace.deploy.prometheus import prometheus_rules

    sys.stdout.write(prometheus_rules(_pipelines(files), runbooks.rstrip("/")))


def grafana(files: Files) -> None:
    """Print a dashboard of Grafana for these pipelines, to be imported; its data come from Prometheus.

    For example:

        tailrace export grafana pipeline.py > tailrace.dashboard.json
    """
    from tailrace.deploy.grafana import grafana_dashboard

    sys.stdout.write(grafana_dashboard([pipeline.name for pipeline in _pipelines(files)]))


COMMANDS: Final[dict[str, Callable[..., Any]]] = {"prometheus": prometheus, "grafana": grafana}


def _pipelines(files: list[Path]) -> list[Pipeline]:
    """Return the pipelines of some files. No model and no store is opened."""
    from tailrace.compile.loading import load_pipelines

    return [pipeline for file in files for pipeline in load_pipelines(file)]
