"""An endpoint within limits: what takes calls of one key, or of one pipeline, while there are tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from tailrace.batch import Call
from tailrace.errors import RateLimitedError, ServingError
from tailrace.request.priority import Priority
from tailrace.server.endpoint import CallEndpoint, RateLimits
from tailrace.server.limiting.bucket import Tokens
from tailrace.server.limiting.held import Held
from tailrace.server.limiting.in_flight import InFlight
from tailrace.server.limiting.meter import Meter


class Common(NamedTuple):
    """What all endpoints within limits share. note: is called for each call that is refused.

    held: answers refusals a little later; None answers them at once.
    """

    in_flight: InFlight
    note: Callable[[CallEndpoint, RateLimitedError], None]
    held: Held | None


class Limited(CallEndpoint):
    """Takes the calls of an endpoint that are within all of some limits; each is one token, an array one a request.

    accept: see `_accept`, or `_accept_counted` where calls in flight are limited too. What is asked counts, answered or
    not, but for what a limit refuses.
    """

    def __init__(self, endpoint: CallEndpoint, meters: tuple[Meter, ...], common: Common) -> None:
        self.name, self.scope, self.budget_ns = endpoint.name, endpoint.scope, endpoint.budget_ns
        self.meters = meters
        self.endpoint = endpoint
        self._within = endpoint.accept
        self._rated = tuple(meter for meter in meters if meter.bucket is not None)
        self._buckets = tuple(meter.bucket for meter in meters if meter.bucket is not None)
        self._counted = tuple(meter for meter in meters if meter.in_flight_max)
        self._common = common
        self._begin, self._end = common.in_flight.begin, common.in_flight.end
        self._others: dict[CallEndpoint, Limited] = {}
        self.accept = self._accept_counted if self._counted else self._accept
        if endpoint.accepting is not None:
            self.accepting = Limited(endpoint.accepting, meters, common)

    def speaking(self, content_type: bytes, accept: bytes, coding: bytes) -> CallEndpoint:
        """Return what takes calls of a caller of these types; see `CallEndpoint`."""
        return self._as(self.endpoint.speaking(content_type, accept, coding))

    def at_priority(self, priority: Priority) -> CallEndpoint:
        """Return what takes calls of a level; see `CallEndpoint`."""
        return self._as(self.endpoint.at_priority(priority))

    def count_failure(self, error: ServingError) -> None:
        """Count a call that is answered with an error; see `CallEndpoint`."""
        self.endpoint.count_failure(error)

    def rate_limits(self) -> RateLimits:
        """Return what its callers may have; see `CallEndpoint`."""
        return [(meter.policy, meter.left) for meter in self.meters]

    def _as(self, endpoint: CallEndpoint) -> CallEndpoint:
        """Return another endpoint of the same calls within the same limits."""
        if endpoint is self.endpoint:
            return self
        if endpoint not in self._others:
            self._others[endpoint] = Limited(endpoint, self.meters, self._common)
        return self._others[endpoint]

    def _accept(self, call: Call, body: bytes, budget_ns: int) -> ServingError | None:
        """Take a call for which there is a token, or return why it is refused."""
        for bucket in self._buckets:
            if not bucket.take():
                return self._refuse_rate(call, bucket, budget_ns)
        refusal = self._within(call, body, budget_ns)
        if type(call.requests) is list and len(call.requests) > 1:
            self._charge(len(call.requests) - 1)
        return refusal

    def _accept_counted(self, call: Call, body: bytes, budget_ns: int) -> ServingError | None:
        """Take a call beside which few enough are in flight, or return why it is refused."""
        counted = self._counted
        for meter in counted:
            if meter.in_flight >= meter.in_flight_max:
                return self._refuse(call, meter.concurrent_refusal(), budget_ns)
        for bucket in self._buckets:
            if not bucket.take():
                return self._refuse_rate(call, bucket, budget_ns)
        for meter in counted:
            meter.in_flight += 1
        self._begin(call, counted)
        refusal = self._within(call, body, budget_ns)
        if refusal is not None:
            self._end(call)
        if type(call.requests) is list and len(call.requests) > 1:
            self._charge(len(call.requests) - 1)
        return refusal

    def _refuse_rate(self, call: Call, empty: Tokens, budget_ns: int) -> ServingError | None:
        """Refuse a call for which one bucket has no token; the tokens of those before it are given back."""
        place = self._buckets.index(empty)
        for bucket in self._buckets[:place]:
            bucket.charge(-1)
        return self._refuse(call, self._rated[place].rate_refusal(), budget_ns)

    def _refuse(self, call: Call, error: RateLimitedError, budget_ns: int) -> ServingError | None:
        """Return the refusal of a call, or None where it is answered a little later."""
        _, note, held = self._common
        note(self.endpoint, error)
        return None if held is not None and held.hold(call, error, budget_ns) else error

    def _charge(self, tokens: int) -> None:
        """Take more tokens, or give some back."""
        for bucket in self._buckets:
            bucket.charge(tokens)
