"""A loop whose turns are taken by hand."""

from __future__ import annotations

from collections.abc import Callable


class Turns:
    """What is asked for in one turn runs in the next, as asyncio has it."""

    def __init__(self) -> None:
        self.ready: list[Callable[[], None]] = []

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Keep it for the next turn."""
        self.ready.append(callback)

    def turn(self) -> None:
        """Run what was asked for until now."""
        ready, self.ready = self.ready, []
        for callback in ready:
            callback()
