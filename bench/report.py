"""What a part of the benchmark says to people: the caveats first, then its table."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from typing import Final

from rich.console import Console
from rich.table import Table

from part import Line, Part

CAVEAT: Final = (
    "One machine, loopback: no network, no TLS, and the load generator shares its caches and memory with the server."
)


def print_caveats(parts: Sequence[Part], notes: Sequence[str], console: Console) -> None:
    """Print what is to be read before the figures of these parts."""
    console.print(
        f"[bold]Before you read the figures[/] [dim]({platform.machine()}, Python {platform.python_version()})[/]"
    )
    for caveat in (CAVEAT, *(caveat for part in parts for caveat in part.caveats), *notes):
        console.print(f" · {caveat}", highlight=False)


def print_table(part: Part, lines: Sequence[Line], console: Console) -> None:
    """Print each figure of a part, beside what it must and should reach where that is asked."""
    asked = any(line.must is not None for line in lines)
    table = Table(title=f"{part.name}: {part.about}", title_justify="left", header_style="bold")
    table.add_column("", no_wrap=True)
    for heading in ("measured", "must", "aim", "") if asked else ("measured",):
        table.add_column(heading, justify="right", no_wrap=True)
    for line in lines:
        bounds = ["" if bound is None else line.write(bound) for bound in (line.must, line.aim)]
        table.add_row(line.name, line.write(line.value), *([*bounds, verdict(line)] if asked else []))
    console.print(table)


def verdict(line: Line) -> str:
    """Return how a figure stands to what is asked of it."""
    if line.must is None or line.aim is None or line.value is None:
        return ""
    if not line.reaches(line.must):
        return "[red]missed[/]"
    return "[green]aim[/]" if line.reaches(line.aim) else "[yellow]must[/]"
