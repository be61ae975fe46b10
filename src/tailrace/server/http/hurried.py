"""Calls of a head whose `X-Budget-Ms` varies: of a client that tells what is left of its own budget."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tailrace.batch import Call
from tailrace.errors import ServingError
from tailrace.server.endpoint import CallEndpoint, RateLimits
from tailrace.server.http.head import BUDGET
from tailrace.server.wishes import read_budget


class HurriedEndpoint(CallEndpoint):
    """Takes calls with the budget that each of them tells; the rest is another endpoint's.

    count_failure: is called for a call whose budget is none.
    """

    def __init__(self, endpoint: CallEndpoint, count_failure: Callable[[type[ServingError]], None]) -> None:
        self.name = endpoint.name
        self.scope = endpoint.scope
        self.budget_ns = endpoint.budget_ns
        self.accept = self._accept
        self._endpoint = endpoint
        self._count_failure = count_failure

    def rate_limits(self) -> RateLimits:
        """Return what its callers may have; see `CallEndpoint`."""
        return self._endpoint.rate_limits()

    def _accept(self, call: Call, body: bytes, budget_ns: int) -> ServingError | None:
        """Take a call, or return why it is refused. budget_ns: of the head that was remembered, which is another's."""
        told: Any = call
        try:
            own_ns = read_budget(told.told(BUDGET))
        except ServingError as error:
            self._count_failure(type(error))
            return error.bare()
        return self._endpoint.accept(call, body, min(own_ns or self.budget_ns, self.budget_ns))
