"""What commands print: JSON, tables, and what others wrote without what a terminal would obey."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

if TYPE_CHECKING:
    from rich.table import Table

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
VERDICT_STYLES: Final = {"good": "green", "warn": "yellow", "bad": "red", "idle": "dim"}
"""How the verdict on a server is coloured, by its level."""


def print_json(value: Any) -> None:
    """Print a value as one JSON document."""
    import msgspec

    print(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def print_table(table: Table, title: str = "") -> None:
    """Print a table as wide as it is, without markup in what others wrote."""
    from rich.console import Console

    console = Console(markup=False, emoji=False, highlight=False)
    if title:
        console.print(title, soft_wrap=True)
    console.print(table)


def table_of(*headers: str, right: tuple[str, ...] = ()) -> Table:
    """Return an empty table. right: the headers of its numbers."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for header in headers:
        table.add_column(header, justify="right" if header in right else "left", overflow="fold")
    return table


def figures_table(first: str, *others: str, folds: bool = False) -> Table:
    """Return an empty table of figures that are shown again and again; all columns but the first are numbers.

    folds: whether a cell that is wider than its column goes on in the next line; else it is cut.
    """
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column(first, min_width=16, no_wrap=not folds)
    for name in others:
        table.add_column(name, justify="right", no_wrap=not folds)
    return table


def plain(value: object) -> str:
    """Return a value as a table shows it: a float with four digits, a text without what a terminal would obey."""
    if isinstance(value, float):
        return f"{value:.4f}"
    return "".join(character if character.isprintable() else "?" for character in str(value))


def size_text(size_bytes: int) -> str:
    """Return a size as a person reads it."""
    from rich.filesize import decimal

    return decimal(size_bytes)
