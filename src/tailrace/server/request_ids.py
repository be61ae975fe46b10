"""Ids of requests whose callers give none, so that each that is logged can be asked for.

    6929a1f3-9c1b4e77d2-1f4      the second, the worker, and a number, in hexadecimal digits

The worker's part is drawn when it starts: what servers and workers name apart, and before and after a restart, has
other ids, whatever their clocks say.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import Final

from tailrace.batch import Encoder
from tailrace.server.oip.asked import Asked
from tailrace.server.wishes import REQUEST_ID_BYTES_MAX

WORKER_BYTES: Final = 5


class RequestIds:
    """Gives the ids of one worker. wall_s: the time since the epoch."""

    def __init__(self, wall_s: Callable[[], float] = time.time) -> None:
        self._worker = secrets.token_hex(WORKER_BYTES)
        self._wall_s = wall_s
        self._given = 0
        self.renew()

    def renew(self) -> None:
        """Take the current second into the ids; once a second."""
        self._begin = f"{int(self._wall_s()):08x}-{self._worker}-".encode()

    def take(self) -> bytes:
        """Return one id."""
        self._given += 1
        return b"%b%x" % (self._begin, self._given)

    def take_many(self, count: int) -> list[bytes]:
        """Return so many ids."""
        begin, first = self._begin, self._given + 1
        self._given += count
        return [b"%b%x" % (begin, number) for number in range(first, first + count)]


def id_in_body(codec: Encoder | None) -> str:
    """Return the id that a caller gives in its message, as the Open Inference Protocol has it.

    Empty for none, and for one that is too long for a header, or not of visible ASCII. codec: of the call.
    """
    told = codec.id if isinstance(codec, Asked) else None
    is_fit = told is not None and len(told) <= REQUEST_ID_BYTES_MAX and told.isascii() and told.isprintable()
    return told.strip() if told is not None and is_fit else ""
