"""What interleaved pairs show: the ratio of two servers, and between which values its median lies."""

from __future__ import annotations

from collections.abc import Callable

from part import Session
from tailrace.offline.optimize.timing import bounds

__all__ = ["bounds", "measure_pairs"]


def measure_pairs(
    session: Session, what: str, count: int, run_one: Callable[[], float], run_other: Callable[[], float]
) -> list[tuple[float, float]]:
    """Return what both give, pair by pair; who is first changes, so that a machine that slows favours neither."""
    pairs = []
    for number in range(count):
        session.tell(f"{what}, pair {number + 1} of {count}")
        if number % 2:
            one = run_one()
            pairs.append((one, run_other()))
        else:
            other = run_other()
            pairs.append((run_one(), other))
    return pairs
