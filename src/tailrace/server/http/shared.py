"""What the connections of one HTTP server share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import structlog

from tailrace.batch import Call, Transport
from tailrace.errors import ServerError, ServingError, UnavailableError
from tailrace.loop_load import LoopLoad
from tailrace.server.endpoint import Answer, CallEndpoint, Page, Routes
from tailrace.server.http.forms import HeadMemory
from tailrace.server.http.framing import Framing
from tailrace.server.http.head import TOLD
from tailrace.server.http.limits import HttpLimits
from tailrace.server.http.strangers import Strangers
from tailrace.server.keys import Callers
from tailrace.server.proxies import Proxies
from tailrace.server.request_ids import RequestIds

RESERVE_MAX: Final = 32
"""Connections over the limit that are held open at most, until each has been answered once."""


class Shared:
    """Routes, limits, framing, remembered heads, the load of the loop, and the second of the last sweep.

    transport: the server itself. connections: the open ones, the oldest first. draining: whether every further answer
    is its connection's last. count_failure: is called for a call that reaches no pipeline. reserve: what connections
    over the limit share, once there was one. keys: one of which a call must show; None asks for none.
    strangers: how often those are read who have shown none. proxies: that are believed, where there are some; told: the
    headers that are read anew with each call. ids: of calls whose callers give none, where they are to have one.
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
        self.heads = HeadMemory(limits.body_bytes_max, count_failure)
        self.connections: dict[Any, None] = {}
        self.draining = False
        self.reserve: Shared | None = None
        self.keys: Callers | None = None
        self.strangers = Strangers()
        self.proxies: Proxies | None = None
        self.told = TOLD
        self.ids: RequestIds | None = None
        self.now_s = 0
        self._failures: dict[str, int] = {}
        self._logged_s = -1

    def enter_reserve(self) -> Shared:
        """Return what a connection over the limit is served by: one answer, and of the routes only the pages.

        So a health check is answered however many connections are open. A newcomer takes the place of the oldest.
        """
        reserve = self.reserve
        if reserve is None:
            routes = {path: {method: _page_of(route) for method, route in methods.items()}
                      for path, methods in self.routes.items()}  # fmt: skip
            reserve = self.reserve = Shared(self.transport, routes, self.limits, self.load, self.count_failure)
            reserve.framing = self.framing
            reserve.keys = self.keys
            reserve.draining = True
            reserve.now_s = self.now_s
        if len(reserve.connections) >= RESERVE_MAX:
            oldest = next(iter(reserve.connections))
            del reserve.connections[oldest]
            oldest.drop()
        return reserve

    def trust(self, proxies: Proxies) -> None:
        """Believe some proxies what they tell of who calls."""
        self.proxies = proxies
        self.told = TOLD | {proxies.header}

    def log_failure(self, where: str, error: ServerError, call: Call) -> None:
        """Log that code behind a route raised, at most once a second. call: one that it has cost."""
        self._failures[where] = self._failures.get(where, 0) + 1
        if self._logged_s < self.now_s:
            calls, cause, self._logged_s = self._failures.pop(where), error.__cause__ or error, self.now_s
            log = structlog.get_logger()
            facts = {"pipeline": where, "calls": calls, "error": repr(cause), **call.origin()}
            log.error("calls failed", exc_info=cause, **facts)


def _page_of(route: CallEndpoint | Page) -> Page:
    """Return what serves a route on a connection over the limit."""
    return route if isinstance(route, Page) else Page(_refuse, is_open=False)


def _refuse() -> Answer:
    raise UnavailableError("too many connections", next="try again later, or another worker")
