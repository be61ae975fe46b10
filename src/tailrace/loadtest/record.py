"""What happened to each shot: arrays of one entry a shot, so that every percentile is exact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

UNANSWERED: Final = 0
"""The status of a shot whose answer never came: it was still in flight, or still waiting, when the drain ended."""
BROKEN: Final = -1
"""The status of a shot whose connection broke under it."""
UNREADABLE: Final = -2
"""The status of a shot whose answer could not be framed (chunked, or not HTTP)."""


@dataclass(slots=True)
class ShotRecord:
    """The shots of one sending process, or of a whole run. Times are monotonic nanoseconds; 0 where it never happened.

    intended_ns, sent_ns, answered_ns: int64, shape (shots,). statuses: int16, the HTTP status, or one of this module's
    negative codes. held: uint8, 1 where the shot waited for room on a connection, which is not the generator's doing.
    bodies: the answers' bodies in shot order, None where there is none; empty unless they were asked for.
    """

    intended_ns: NDArray[np.int64]
    sent_ns: NDArray[np.int64]
    answered_ns: NDArray[np.int64]
    statuses: NDArray[np.int16]
    held: NDArray[np.uint8]
    bodies: list[bytes | None] = field(default_factory=list)

    @property
    def shots(self) -> int:
        """How many shots this holds."""
        return len(self.intended_ns)

    @property
    def latencies_ns(self) -> NDArray[np.int64]:
        """Answer time less INTENDED send time, int64 (shots,); meaningful where `statuses` > 0."""
        return self.answered_ns - self.intended_ns

    @property
    def lags_ns(self) -> NDArray[np.int64]:
        """Actual less intended send time of the shots that were sent and that nothing but the generator delayed."""
        own = (self.sent_ns > 0) & (self.held == 0)
        lags: NDArray[np.int64] = (self.sent_ns - self.intended_ns)[own]
        return lags


def make_record(intended_ns: NDArray[np.int64], *, keep_bodies: bool = False) -> ShotRecord:
    """Return the record of shots to which nothing has happened yet."""
    shots = len(intended_ns)
    return ShotRecord(
        intended_ns,
        np.zeros(shots, np.int64),
        np.zeros(shots, np.int64),
        np.zeros(shots, np.int16),
        np.zeros(shots, np.uint8),
        [None] * shots if keep_bodies else [],
    )


def merge_records(shards: Sequence[ShotRecord]) -> ShotRecord:
    """Return the whole run's record; shard p of n holds the shots p, p + n, p + 2n and so on."""
    if len(shards) == 1:
        return shards[0]
    shots = sum(shard.shots for shard in shards)
    whole = make_record(np.zeros(shots, np.int64), keep_bodies=bool(shards[0].bodies))
    for index, shard in enumerate(shards):
        own = slice(index, None, len(shards))
        whole.intended_ns[own] = shard.intended_ns
        whole.sent_ns[own] = shard.sent_ns
        whole.answered_ns[own] = shard.answered_ns
        whole.statuses[own] = shard.statuses
        whole.held[own] = shard.held
        if whole.bodies:
            whole.bodies[own] = shard.bodies
    return whole
