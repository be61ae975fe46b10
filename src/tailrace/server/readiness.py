"""Whether a worker is to be sent requests, and its two probes."""

from __future__ import annotations

from collections.abc import Callable

from tailrace.errors import UnavailableError
from tailrace.server.endpoint import Answer


class Readiness:
    """Says whether a worker is ready. listeners: hear whenever that is said anew."""

    def __init__(self) -> None:
        self.is_ready = False
        self.listeners: list[Callable[[bool], None]] = []

    def set(self, is_ready: bool) -> None:
        """Say so from now on."""
        self.is_ready = is_ready
        for hear in self.listeners:
            hear(is_ready)

    def livez(self) -> Answer:
        """Answer: the loop runs."""
        return Answer(200, b"text/plain", b"live\n")

    def readyz(self) -> Answer:
        """Answer where the worker is ready. Raises UnavailableError where it is not."""
        if not self.is_ready:
            raise UnavailableError("not ready", where="/readyz", next="send requests to another server")
        return Answer(200, b"text/plain", b"ready\n")
