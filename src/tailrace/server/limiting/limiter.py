"""The limits of one worker: which there are, and their meters.

    scope ─▶ what the pipeline declares ─┐
    key ───▶ what its file says ─────────┴▶ Limiter ─▶ Meter, one a name ─▶ Limited, an endpoint within some of them

A pipeline's limit for all together is a meter that every call of it passes; a key's own, and what a pipeline lets each
key have, are meters of that key. An endpoint that nothing limits stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import islice
from typing import Final, NamedTuple, Protocol

from tailrace.deadline import Clock
from tailrace.errors import RateLimitedError
from tailrace.loop_load import Loop
from tailrace.request.limit import NO_LIMIT, Limit
from tailrace.server.endpoint import CallEndpoint
from tailrace.server.limiting.bucket import Account, Bucket, Lender, Tokens
from tailrace.server.limiting.held import Held
from tailrace.server.limiting.in_flight import InFlight
from tailrace.server.limiting.limited import Common, Limited
from tailrace.server.limiting.meter import Meter

METERS_MAX: Final = 100_000
"""Meters that are kept; beyond, those that nobody uses make room: a new one for two at most, and nobody waits long."""
LOOKED_MAX: Final = 2_048
"""Meters that are looked at in one turn of the loop: half a millisecond."""


class Declared(NamedTuple):
    """What a pipeline lets callers have: all together, and each key of it."""

    together: Limit = NO_LIMIT
    each_key: Limit = NO_LIMIT


class LimitRecorder(Protocol):
    """Counts refusals."""

    def count(self, pipeline: str, reason: str) -> None:
        """Count one; the empty name is for calls of no pipeline."""
        ...


LenderMaker = Callable[[str, Limit], Lender]
"""Makes what lends the tokens of a limit, by the limit's name."""


class Limiter:
    """The limits of a worker. declared: by scope, as pipelines have it. lender_of: who lends; None for this worker.

    workers: how many the server has, each with its part of the calls in flight. loop: on which refusals are held; None
    answers them at once.
    """

    def __init__(
        self,
        declared: Mapping[str, Declared],
        clock: Clock,
        recorder: LimitRecorder,
        lender_of: LenderMaker | None = None,
        workers: int = 1,
        loop: Loop | None = None,
    ) -> None:
        self._declared = dict(declared)
        self._clock = clock
        self._recorder = recorder
        self._lender_of = lender_of
        self._workers = workers
        self._meters: dict[str, Meter] = {}
        self._looks, self._leaves = _Round(self._meters), _Round(self._meters)
        self._in_flight = InFlight()
        held = None if loop is None else Held(loop, clock)
        self._common = Common(self._in_flight, self._count, held)

    def within(self, endpoint: CallEndpoint) -> CallEndpoint:
        """Return an endpoint within what its pipeline lets all callers have together."""
        declared = self._declared.get(endpoint.scope, Declared())
        return self._limited(endpoint, [("pipeline", endpoint.scope, declared.together)])

    def of_key(self, endpoint: CallEndpoint, key_id: str, own: Limit) -> CallEndpoint:
        """Return an endpoint within what a key may have: of all together, which is its own, and of this pipeline."""
        declared = self._declared.get(endpoint.scope, Declared())
        each = ("key-pipeline", f"keys/{key_id}/{endpoint.scope}", declared.each_key)
        return self._limited(endpoint, [("key", f"keys/{key_id}", own), each])

    def look(self) -> None:
        """Once a second: take back what nobody uses, of very many meters by and by."""
        self._in_flight.look(self._clock.now_ns())
        for _, meter in self._looks.take(LOOKED_MAX):
            if meter.bucket is not None:
                meter.bucket.look()

    def _limited(self, endpoint: CallEndpoint, limits: list[tuple[str, str, Limit]]) -> CallEndpoint:
        """Return an endpoint within some limits, each with its policy's name and its own."""
        meters = tuple(self._meter(*limit) for limit in limits if not limit[2].is_any)
        if not meters:
            return endpoint
        if isinstance(endpoint, Limited):  # the pipeline's limit comes last, and a call passes one endpoint for all
            meters, endpoint = meters + endpoint.meters, endpoint.endpoint
        return Limited(endpoint, meters, self._common)

    def _meter(self, policy_name: str, name: str, limit: Limit) -> Meter:
        """Return the meter of a name; what it has counted stays where its limit becomes another."""
        meter = self._meters.get(name)
        if meter is None or meter.limit != limit:
            bucket = self._tokens(name, limit) if limit.rate is not None else None
            if meter is None:
                self._make_room()
                meter = self._meters[name] = Meter(policy_name, limit, bucket, self._workers)
            else:
                same = (limit.rate, limit.burst) == (meter.limit.rate, meter.limit.burst)
                meter.set(limit, meter.bucket if same else bucket)
        return meter

    def _make_room(self) -> None:
        """Forget two meters where there are too many, unless they are in use."""
        if len(self._meters) >= METERS_MAX:
            for name, meter in self._leaves.take(2):
                if _is_idle(meter):
                    del self._meters[name]

    def _tokens(self, name: str, limit: Limit) -> Tokens:
        """Return the tokens of a limit, which are lent, or this worker's own."""
        return Account(limit, self._clock) if self._lender_of is None else Bucket(self._lender_of(name, limit))

    def _count(self, endpoint: CallEndpoint, error: RateLimitedError) -> None:
        """Count a call that is refused."""
        endpoint.count_failure(error)
        kind, _, name = endpoint.scope.partition("/")
        self._recorder.count(name if kind == "pipelines" else "", error.reason)


class _Round:
    """Goes round all meters, some at a time."""

    def __init__(self, meters: Mapping[str, Meter]) -> None:
        self._meters = meters
        self._names = iter(list[str]())

    def take(self, most: int) -> list[tuple[str, Meter]]:
        """Return the next meters, so many at most, with their names; some where a round ends."""
        names = list(islice(self._names, most))
        if not names:
            self._names = iter(list(self._meters))
            names = list(islice(self._names, most))
        return [(name, self._meters[name]) for name in names if name in self._meters]


def _is_idle(meter: Meter) -> bool:
    """Say whether a meter has nothing to remember: no call in flight, and all of its tokens."""
    tokens = meter.limit.tokens_max if meter.bucket is None else meter.bucket.left()[0]
    return not meter.in_flight and tokens >= meter.limit.tokens_max
