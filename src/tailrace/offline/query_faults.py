"""What may go wrong with a query that another engine runs, told in the words of the user's file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tailrace.errors import SourceError

MESSAGE_CHARACTERS_MAX: Final = 300


@dataclass(frozen=True, slots=True)
class QueryFaults:
    """Makes the errors of one query. view: whose it is. path: of its file. query: its text."""

    view: str
    path: str
    query: str

    def refused(self, message: str, next_step: str, place: tuple[int, int] | None = None) -> SourceError:
        """Return the error of a query that cannot be run. place: line and column of the file, from 1."""
        where = self.path if place is None else ":".join([self.path, *map(str, place)])
        return SourceError(f"the query of {self.view} cannot be run: {shorten(message)}", where=where, next=next_step)

    def unreachable(self, engine: str, message: str, next_step: str) -> SourceError:
        """Return the error of an engine that cannot be asked."""
        what = f"{engine} cannot be asked: {shorten(message)}"
        return SourceError(what, where=f"features.{self.view}.source ({self.path})", next=next_step)

    def broken_off(self, engine: str, rows: int, message: str) -> SourceError:
        """Return the error of an answer that ended before its last row. rows: that had come."""
        what = f"the answer of {engine} broke off behind {rows:,} rows, so nothing of it is written: {shorten(message)}"
        return SourceError(what, where=f"features.{self.view}.source ({self.path})", next="run again")

    def unreadable(self, column: str, kind: str, engine: str) -> SourceError:
        """Return the error of a column of a type that no value of a view comes from."""
        what = f"the query of {self.view} gives {column!r}, which is {kind}: no column of a view is made of that"
        return SourceError(what, where=self.path, next=f"cast it in the query, as {engine} does, or leave it out")

    def place_of(self, position: int) -> tuple[int, int]:
        """Return the line and column, from 1, of a character of the query, from 0."""
        before = self.query[: max(position, 0)]
        return before.count("\n") + 1, len(before) - before.rfind("\n")


def shorten(message: str) -> str:
    """Return the first line of a message, or the beginning of it."""
    line = next((line.strip() for line in message.splitlines() if line.strip()), "no reason is told")
    return line if len(line) <= MESSAGE_CHARACTERS_MAX else f"{line[: MESSAGE_CHARACTERS_MAX - 1]}…"
