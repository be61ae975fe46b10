"""An endpoint within limits: what takes calls of one key, or of one pipeline, while there are tokens."""

from __future__ import annotations

from collections.abc import Callable

from tailrace.batch import Call
from tailrace.errors import RateLimitedError, ServingError
from tailrace.request.priority import Priority
from tailrace.server.endpoint import CallEndpoint, RateLimits
from tailrace.server.limiting.bucket import Tokens
from tailrace.server.limiting.in_flight import InFlight
from tailrace.server.limiting.meter import Meter

Count = Callable[[CallEndpoint, RateLimitedError], None]
"""Counts a call that is refused."""


class Limited(CallEndpoint):
    """Takes the calls of an endpoint that are within all of some limits; each is one token, an array one a request.

    accept: see `_accept`, or `_accept_counted` where calls in flight are limited too. What is asked counts, answered or
    not, but for what a limit refuses.
    """

    def __init__(self, endpoint: CallEndpoint, meters: tuple[Meter, ...], in_flight: InFlight, count: Count) -> None:
        self.name, self.scope, self.budget_ns = endpoint.name, endpoint.scope, endpoint.budget_ns
        self.meters = meters
        self._endpoint = endpoint
        self._within = endpoint.accept
        self._rated = tuple(meter for meter in meters if meter.bucket is not None)
        self._buckets = tuple(meter.bucket for meter in meters if meter.bucket is not None)
        self._counted = tuple(meter for meter in meters if meter.in_flight_max)
        self._in_flight = in_flight
        self._count = count
        self._others: dict[CallEndpoint, Limited] = {}
        self.accept = self._accept_counted if self._counted else self._accept
        if endpoint.accepting is not None:
            self.accepting = Limited(endpoint.accepting, meters, in_flight, count)

    def speaking(self, content_type: bytes, accept: bytes, coding: bytes) -> CallEndpoint:
        """Return what takes calls of a caller of these types; see `CallEndpoint`."""
        return self._as(self._endpoint.speaking(content_type, accept, coding))

    def at_priority(self, priority: Priority) -> CallEndpoint:
        """Return what takes calls of a level; see `CallEndpoint`."""
        return self._as(self._endpoint.at_priority(priority))

    def count_failure(self, error: ServingError) -> None:
        """Count a call that is answered with an error; see `CallEndpoint`."""
        self._endpoint.count_failure(error)

    def rate_limits(self) -> RateLimits:
        """Return what its callers may have; see `CallEndpoint`."""
        return [*((meter.policy, meter.left) for meter in self.meters), *self._endpoint.rate_limits()]

    def _as(self, endpoint: CallEndpoint) -> CallEndpoint:
        """Return another endpoint of the same calls within the same limits."""
        if endpoint is self._endpoint:
            return self
        if endpoint not in self._others:
            self._others[endpoint] = Limited(endpoint, self.meters, self._in_flight, self._count)
        return self._others[endpoint]

    def _accept(self, call: Call, body: bytes, budget_ns: int) -> ServingError | None:
        """Take a call for which there is a token, or return why it is refused."""
        for bucket in self._buckets:
            if not bucket.take():
                return self._refuse_rate(bucket)
        refusal = self._within(call, body, budget_ns)
        if type(call.requests) is list:
            self._charge(len(call.requests) - 1)
        elif refusal is not None and type(refusal) is RateLimitedError:
            self._charge(-1)
        return refusal

    def _accept_counted(self, call: Call, body: bytes, budget_ns: int) -> ServingError | None:
        """Take a call beside which few enough are in flight, or return why it is refused."""
        counted = self._counted
        for meter in counted:
            if meter.in_flight >= meter.in_flight_max:
                return self._refuse_more(meter)
            meter.in_flight += 1
        self._in_flight.begin(call, counted)
        refusal = self._accept(call, body, budget_ns)
        if refusal is not None:
            self._in_flight.end(call)
        return refusal

    def _refuse_rate(self, empty: Tokens) -> ServingError:
        """Refuse a call for which one bucket has no token; the tokens of those before it are given back."""
        place = self._buckets.index(empty)
        for bucket in self._buckets[:place]:
            bucket.charge(-1)
        return self._refuse(self._rated[place].rate_refusal())

    def _refuse_more(self, full: Meter) -> ServingError:
        """Refuse a call beside which too many are in flight; those before it have not counted it then."""
        for meter in self._counted[: self._counted.index(full)]:
            meter.in_flight -= 1
        return self._refuse(full.concurrent_refusal())

    def _charge(self, tokens: int) -> None:
        """Take more tokens, or give some back."""
        for bucket in self._buckets:
            bucket.charge(tokens)

    def _refuse(self, error: RateLimitedError) -> ServingError:
        self._count(self._endpoint, error)
        return error
