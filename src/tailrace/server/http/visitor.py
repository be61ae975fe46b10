"""What the connections of one caller share, who is told by a certificate: its own connections, and nobody else's."""

from __future__ import annotations

from tailrace.server.http.forms import HeadMemory
from tailrace.server.keys import Callers


class Visitor:
    """heads: that it has sent, which name it as their caller. callers: tells who it is, request by request."""

    def __init__(self, heads: HeadMemory, callers: Callers) -> None:
        self.heads = heads
        self.callers = callers
