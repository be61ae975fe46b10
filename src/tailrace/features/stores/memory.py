"""The in-memory store: a dict, for tests and for trying things out. Embedded: it never suspends."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final


class MemoryStore:
    """Reads a dict of packed rows."""

    network: Final = False

    def __init__(self, rows: dict[bytes, bytes] | None = None) -> None:
        self.rows = {} if rows is None else rows

    async def fetch(self, keys: Sequence[bytes], deadline_ns: int) -> list[bytes | None]:
        """Return the value of each key, in order."""
        get = self.rows.get
        return [get(key) for key in keys]

    async def open(self) -> None:
        """Do nothing: there is nothing to connect to."""

    def close(self) -> None:
        """Do nothing: the rows stay for who opens the store again."""


class MemoryWriter:
    """Writes a dict of packed rows."""

    def __init__(self, rows: dict[bytes, bytes]) -> None:
        self._rows = rows

    def put(self, rows: Iterable[tuple[bytes, bytes]]) -> None:
        """Write key and value pairs, all of them or none."""
        self._rows |= dict(rows)

    def get(self, key: bytes) -> bytes | None:
        """Return one value."""
        return self._rows.get(key)

    def delete(self, key: bytes) -> None:
        """Remove one key, if it is there."""
        self._rows.pop(key, None)

    def close(self) -> None:
        """Do nothing: every write has happened."""
