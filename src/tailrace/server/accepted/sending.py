"""What it is to send one result: a protocol for the ways there are, and what may go wrong."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Final, Protocol

FIRST_WAIT_S: Final = 1.0
WAIT_S_MAX: Final = 600.0


class SendError(Exception):
    """A result that has not arrived, or is not known to have. wait_s: for how long the other side asks to wait.

    is_final: whether it wants no other try.
    """

    def __init__(self, what: str, *, wait_s: float = 0.0, is_final: bool = False) -> None:
        super().__init__(what)
        self.wait_s = wait_s
        self.is_final = is_final


class Sender(Protocol):
    """Sends results to one destination. where: that is, for the log, without a password."""

    where: str

    async def send(self, headers: Mapping[str, str], body: bytes) -> None:
        """Send one. Raises SendError, within the destination's timeout."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


def wait_before(tries: int, drawn: float | None = None) -> float:
    """Return how long to wait after so many tries, in seconds: twice as long each time, give or take a half.

    drawn: a number from 0 to 1 in place of a random one.
    """
    jitter = 0.5 + (random.random() if drawn is None else drawn)
    return min(FIRST_WAIT_S * 2.0 ** min(tries - 1, 16), WAIT_S_MAX) * jitter
