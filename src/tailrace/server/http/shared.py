"""What the connections of one HTTP server share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import structlog

from tailrace.batch import Transport
from tailrace.errors import ServerError, ServingError
from tailrace.loop_load import LoopLoad
from tailrace.server.http.forms import HeadMemory
from tailrace.server.http.framing import Framing
from tailrace.server.http.head import Routes
from tailrace.server.http.limits import HttpLimits


class Shared:
    """Routes, limits, framing, remembered heads, the load of the loop, and the second of the last sweep.

    transport: the server itself. connections: the open ones. draining: whether every further answer is its
    connection's last. count_failure: is called for a call that reaches no pipeline.
    """

    def __init__(
        self,
        transport: Transport,
        routes: Routes,
        limits: HttpLimits,
        load: LoopLoad,
        count_failure: Callable[[type[ServingError]], None],
        release: bytes = b"",
    ) -> None:
        self.transport = transport
        self.routes = routes
        self.limits = limits
        self.load = load
        self.count_failure = count_failure
        self.framing = Framing(release)
        self.heads = HeadMemory(limits.body_bytes_max)
        self.connections: set[Any] = set()
        self.draining = False
        self.now_s = 0
        self._failures: dict[str, int] = {}
        self._logged_s = -1

    def log_failure(self, where: str, error: ServerError) -> None:
        """Log that code behind a route raised, at most once a second."""
        self._failures[where] = self._failures.get(where, 0) + 1
        if self._logged_s < self.now_s:
            calls, cause, self._logged_s = self._failures.pop(where), error.__cause__ or error, self.now_s
            log = structlog.get_logger()
            log.error("calls failed", pipeline=where, calls=calls, error=repr(cause), exc_info=cause)
