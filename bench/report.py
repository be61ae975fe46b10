"""What the benchmark says: one JSON file for programs, one table for people, the caveats first."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

Figures = dict[str, Any]

CAVEATS: Final = (
    "One machine, loopback: no network, no TLS, and the load generator shares its caches and memory with the server.",
    "hot path: 64 connections, closed loop; the server has one core, wrk and Redis share another. A closed loop waits "
    "for the server, so its p99 flatters an overloaded one; the open loop's does not.",
    "FastAPI: one uvicorn worker with uvloop and httptools, as one core allows; pydantic, one LMDB read or Redis "
    "MGET and one model call a request, a Prometheus histogram. It answers alike, checked before every run.",
    "open loop: the load shares the two cores with the server; latency counts from the intended send time.",
)


@dataclass(frozen=True, slots=True)
class Goal:
    """One line of the table: a figure, what it must and what it should reach, how it is read and written."""

    name: str
    read: Callable[[Figures], float]
    must: float | None = None
    aim: float | None = None
    unit: str = ""
    more_is_better: bool = False

    def reaches(self, value: float, bound: float) -> bool:
        """Say whether a value is as good as a bound."""
        return value >= bound if self.more_is_better else value <= bound

    def write(self, value: float) -> str:
        """Return a value with its unit."""
        digits = 0 if value >= 100 or float(value).is_integer() else 1 if value >= 10 else 2
        return f"{value:,.{digits}f}{self.unit}"


def at(*path: str) -> Callable[[Figures], float]:
    """Return a function that reads a figure at a path of keys."""

    def read(figures: Figures) -> float:
        value: Any = figures
        for key in path:
            value = value[key]
        return float(value)

    return read


def fastapi_redis_rps(figures: Figures) -> float:
    """Return FastAPI's requests a second on Redis, which the file holds as a ratio."""
    return at("hot_path", "redis_rps")(figures) / at("hot_path", "redis_ratio_fastapi")(figures)


GOALS: Final = (
    Goal("nginx `return 200`, requests/s", at("hot_path", "nginx_rps")),
    Goal("FastAPI on LMDB, requests/s", at("hot_path", "fastapi_rps")),
    Goal("FastAPI on Redis, requests/s", fastapi_redis_rps),
    Goal("Tailrace on LMDB, requests/s", at("hot_path", "tailrace_rps")),
    Goal("  against nginx", at("hot_path", "ratio_nginx"), 0.35, 0.50, more_is_better=True),
    Goal("  against FastAPI", at("hot_path", "ratio_fastapi"), 6, 10, "×", more_is_better=True),
    Goal("  p99, closed loop", at("hot_path", "p99_ms"), unit=" ms"),
    Goal("Tailrace on Redis, requests/s", at("hot_path", "redis_rps")),
    Goal("  against nginx", at("hot_path", "redis_ratio_nginx"), 0.20, 0.30, more_is_better=True),
    Goal("  against FastAPI on Redis", at("hot_path", "redis_ratio_fastapi"), 7, 11, "×", more_is_better=True),
    Goal("open loop at 5,000/s, p50", at("open_loop", "p50_ms"), unit=" ms"),
    Goal("  p99", at("open_loop", "p99_ms"), 5, 2, " ms"),
    Goal("  p99.9", at("open_loop", "p999_ms"), 12, 5, " ms"),
    Goal("  errors", at("open_loop", "errors"), 0, 0),
    Goal("one request at a time, p50", at("idle_p50_us"), 400, 200, " µs"),
    Goal("resident memory of a worker", at("rss_mb"), 220, 150, " MB"),
    Goal("start to ready", at("ready_s"), 3, 1.5, " s"),
    Goal("CPU a prediction, 64 connections", at("cost_us_per_prediction"), unit=" µs"),
)


def write_json(figures: Figures, path: Path) -> None:
    """Write the figures."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(figures, indent=1) + "\n")


def print_table(figures: Figures, notes: list[str], console: Console) -> None:
    """Print the caveats, then each figure beside what it must and should reach."""
    console.print(
        f"[bold]Before you read the figures[/] [dim]({platform.machine()}, Python {platform.python_version()})[/]"
    )
    for caveat in (*CAVEATS, *notes):
        console.print(f" · {caveat}", highlight=False)
    table = Table(title="Tailrace, the fraud example, everything on", title_justify="left", header_style="bold")
    for heading in ("", "measured", "must", "aim", ""):
        table.add_column(heading, justify="left" if heading == "" else "right", no_wrap=True)
    for goal in GOALS:
        value = goal.read(figures)
        bounds = ["" if bound is None else goal.write(bound) for bound in (goal.must, goal.aim)]
        table.add_row(goal.name, goal.write(value), *bounds, verdict(goal, value))
    console.print(table)
    if not figures["open_loop"]["valid"]:
        console.print("[red]The open loop is invalid: the generator itself could not keep its schedule.[/]")


def verdict(goal: Goal, value: float) -> str:
    """Return how a value stands to its goal."""
    if goal.must is None or goal.aim is None:
        return ""
    if not goal.reaches(value, goal.must):
        return "[red]missed[/]"
    return "[green]aim[/]" if goal.reaches(value, goal.aim) else "[yellow]must[/]"
