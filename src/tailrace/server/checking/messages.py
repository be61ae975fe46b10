"""What a worker and its checking process say to each other, one message a packet.

worker ─▶ process   Pin                       first of all: what it loads
worker ─▶ process   Requests(place, …)        of the pipeline at a place among those that have checks
process ─▶ worker   Outcomes(place, counts)   of each check: how many held, did not, raised, came too late
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Final

import msgspec

PACKET_BYTES_MAX: Final = 96 << 10
"""Of requests in one packet; a longer one no socket takes whole, and what is in it is not checked."""
BUFFER_BYTES: Final = 1 << 20
"""Asked of the socket: what waits to be checked. The kernel may give less."""
LATE_S: Final = 60.0
"""What waits longer is not checked: the log tells of what happens now."""


class Outcome(IntEnum):
    """What became of a check of a request. DROPPED: it was not made in time."""

    HELD = 0
    BROKEN = 1
    FAILED = 2
    DROPPED = 3


class Requests(msgspec.Struct, frozen=True, array_like=True):
    """Requests of one pipeline. sent_s: when they were answered, monotonic. content: their MessagePack, as an array."""

    place: int
    sent_s: float
    count: int
    content: bytes


class Outcomes(msgspec.Struct, frozen=True, array_like=True):
    """How often each outcome was: a list for each check, in the order of the pipeline's."""

    place: int
    counts: list[list[int]]


encode: Final = msgspec.msgpack.Encoder().encode


def decode(packet: bytes, kind: Any) -> Any:
    """Return the message of a packet."""
    return msgspec.msgpack.decode(packet, type=kind)
