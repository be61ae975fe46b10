"""Bytes that go to another server and come from it, counted where they are written and read."""

from __future__ import annotations

from typing import Final

DIRECTIONS: Final = ("sent", "received")


class Traffic:
    """Counts of bytes, since the start of the process."""

    __slots__ = DIRECTIONS

    def __init__(self) -> None:
        self.sent = self.received = 0


STORES: Final = Traffic()
"""With network stores, of this process."""
