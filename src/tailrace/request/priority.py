"""Who is shed first. Three levels, of which each asks admission as if more or fewer rows were waiting.

A call of a low priority finds the queue full at half of its length, one of a high priority when it is longer than
others may make it. So where too much is asked, low goes first and high last, and nobody else is asked anything more.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final


class Priority(IntEnum):
    """The levels, the first to be shed first."""

    LOW = 0
    NORMAL = 1
    HIGH = 2

    @classmethod
    def of_rank(cls, rank: int) -> Priority:
        """Return the level of a rank in which 1 goes before 2, as the Open Inference Protocol's servers have it.

        0 is the usual one, and so is 2; from 3 on it is the lowest.
        """
        return (cls.NORMAL, cls.HIGH, cls.NORMAL)[rank] if 0 <= rank <= 2 else cls.LOW


PRIORITIES: Final = {each.name.lower(): each for each in Priority}
"""By what a key's file and a request's head call them."""

QUEUE_WEIGHTS: Final = {Priority.LOW: 2.0, Priority.NORMAL: 1.0, Priority.HIGH: 0.6}
"""What a row that waits counts for, to a call of the level. A queue may take 0.4 of a call's time, or 0.2 where it has
been there for long (admission.py): of high 0.67 and 0.33, which leaves a third of the time for what estimates miss."""
