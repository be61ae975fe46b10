"""Why a remote model gave no score. One word a reason: it is counted, logged, and never a score."""

from __future__ import annotations

from enum import StrEnum


class RemoteFault(StrEnum):
    """What went wrong with a call, as the metrics call it."""

    LATE = "late"
    """No whole answer by the deadline."""
    UNREACHABLE = "unreachable"
    """No connection, or it was lost before the answer was whole."""
    STATUS = "status"
    """An HTTP status other than 200."""
    UNREADABLE = "unreadable"
    """Not HTTP, or not what the protocol says."""
    TOO_LARGE = "too_large"
    """A longer answer than it may be."""
    FOREIGN = "foreign"
    """The answer of another model, another version, or to another request."""
    MISSHAPEN = "misshapen"
    """Another number of rows, or another shape or type than the output has."""
    BUSY = "busy"
    """Every connection is in use, and too many calls wait for one."""
    LEFT_ALONE = "left_alone"
    """The breaker is open: the server was not asked."""


class RemoteError(Exception):
    """A call that gave no score. reason: in one word; what: in a sentence.

    status: of HTTP, where that is the reason. of_rows: whether one of the rows may be why: others may be scored.
    """

    def __init__(self, reason: RemoteFault, what: str, status: int = 0, *, of_rows: bool = False) -> None:
        super().__init__(what)
        self.reason = reason
        self.status = status
        self.of_rows = of_rows
