"""The progress bar of long work: on stderr, and only to a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Show = Callable[[str, int, int], None]
"""Is told what is done just now, how many of it are, and of how many; 0 where nobody knows."""


@contextmanager
def progress_bar(begins: str, *, width: int = 0) -> Iterator[Show]:
    """Show a bar while the block runs; it is moved by what this gives.

    begins: what is done first. width: characters that the text has, longer ones are cut; 0 takes it as it comes.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn(f"{{task.description:<{width}}}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bars:
        task = bars.add_task(begins, total=None)

        def show(what: str, done: int, total: int) -> None:
            bars.update(task, description=what[: width or None], completed=done, total=total or None)

        yield show
