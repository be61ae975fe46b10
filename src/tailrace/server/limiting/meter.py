"""One limit at work: its bucket, its calls in flight, and what who goes beyond is told."""

from __future__ import annotations

from typing import Final

from tailrace.deadline import NS_PER_S
from tailrace.errors import RateLimitedError
from tailrace.request.limit import Limit
from tailrace.server.limiting.bucket import Tokens

RETRY_S_MAX: Final = 86_400
CONCURRENT_RETRY_S: Final = 1
"""Nobody knows when a call in flight ends; a second is the least that the field can say."""


class Meter:
    """The limit of one name, as it is now. policy_name: as callers are told of it. bucket: None where any rate will do.

    in_flight: calls taken and not yet answered; in_flight_max: how many there may be, of this worker. workers: that
    have a part each of these.
    """

    __slots__ = ("_told", "_workers", "bucket", "in_flight", "in_flight_max", "limit", "policy_name")

    def __init__(self, policy_name: str, limit: Limit, bucket: Tokens | None, workers: int = 1) -> None:
        self.policy_name = policy_name
        self._workers = workers
        self.in_flight = 0
        self._told: dict[int, RateLimitedError] = {}
        self.set(limit, bucket)

    def set(self, limit: Limit, bucket: Tokens | None) -> None:
        """Have another limit from now on."""
        self.limit = limit
        self.bucket = bucket
        self.in_flight_max = -(-(limit.concurrent or 0) // self._workers)
        self._told.clear()

    def rate_refusal(self) -> RateLimitedError:
        """Return the refusal of a call for which there is no token; it is made once for each second to wait."""
        assert self.bucket is not None
        _, wait_ns = self.bucket.left()
        retry_s = min(max(-(-wait_ns // NS_PER_S), 1), RETRY_S_MAX)
        error = self._told.get(retry_s)
        if error is None:
            if len(self._told) > 8:
                self._told.clear()
            owner = "all callers of the pipeline together" if self._whose == "pipeline" else "the key"
            error = self._told[retry_s] = RateLimitedError(
                f"{owner} may ask {self.limit.rate}, {self.limit.tokens_max} at once",
                next=f"ask again in {retry_s} s",
                reason=f"{self._whose}_rate",
                retry_after_s=retry_s,
                policy=self.policy,
                left=f'"{self.policy_name}";r=0;t={retry_s}',
            )
        return error

    def concurrent_refusal(self) -> RateLimitedError:
        """Return the refusal of a call beside which too many are in flight."""
        error = self._told.get(0)
        if error is None:
            owner = f"the {self._whose}"
            error = self._told[0] = RateLimitedError(
                f"{owner} may have {self.limit.concurrent} calls in flight, and has",
                next="ask again when one is answered",
                reason=f"{self._whose}_concurrent",
                retry_after_s=CONCURRENT_RETRY_S,
                policy=self.policy,
                left=f'"{self.policy_name}-concurrent";r=0',
            )
        return error

    @property
    def _whose(self) -> str:
        """Whose limit it is: "key" or "pipeline"."""
        return self.policy_name.partition("-")[0]

    @property
    def policy(self) -> str:
        """What is limited, as RateLimit-Policy says it: the tokens of a window of whole seconds, calls in flight."""
        parts = []
        if self.limit.rate is not None:
            window_s, requests = self.limit.window
            parts.append(f'"{self.policy_name}";q={requests};w={window_s}')
        if self.in_flight_max:
            parts.append(f'"{self.policy_name}-concurrent";q={self.limit.concurrent};qu="concurrent-requests"')
        return ", ".join(parts)

    @property
    def left(self) -> str:
        """What is left, as RateLimit says it."""
        parts = []
        if self.bucket is not None:
            tokens, wait_ns = self.bucket.left()
            parts.append(f'"{self.policy_name}";r={tokens};t={-(-wait_ns // NS_PER_S)}')
        if self.in_flight_max:
            parts.append(f'"{self.policy_name}-concurrent";r={max(self.in_flight_max - self.in_flight, 0)}')
        return ", ".join(parts)
