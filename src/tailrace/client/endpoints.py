"""The servers of a client: which is asked now, which is left alone, and whether a call is repeated."""

from __future__ import annotations

import random
import ssl
import threading
from collections.abc import Sequence
from typing import Final

from tailrace.breaker import Breaker
from tailrace.client.address import Address, address_of
from tailrace.client.answer import Answer
from tailrace.client.failure import ExchangeError
from tailrace.client.options import Options
from tailrace.client.shares import Share, UsualTime
from tailrace.client.tls import tls_context
from tailrace.deadline import NS_PER_S, Clock, MonotonicClock
from tailrace.errors import DeadlineExceededError, SetupError, UnavailableError

ENDPOINTS_MAX: Final = 64
ATTEMPTS_MAX: Final = 4
"""Of one call."""
PAUSE_S: Final = 0.005
"""Before a server is asked again that could not be reached: twice this, then four times, jittered."""
LOOK_ROUND: Final = 16
"""One call in so many goes to the next server in turn: one that was slow once is seen to be quick again."""
WEIGHT: Final = 0.2
"""Of the last call in what a server's calls take."""
RETRY_AFTER_S_MAX: Final = 3_600
REST_NS: Final = NS_PER_S
"""How long one that has failed is asked only if no other may be: errors come quickly, and it would be the nearest."""
MISPLACED: Final = frozenset({401, 403, 404, 405})
"""Of the statuses of a caller's fault, those that another server may see otherwise."""
SHED: Final = 503
GONE: Final = frozenset({502, 504})
"""Statuses that speak against a server: a gateway's, and what was accepted and then late."""


class Endpoint:
    """One server. usual_ns: what its calls take; rests_until_ns: until when it has asked to be left alone (503).

    tls: what connections to it are made secret with; None for plain ones.
    """

    def __init__(self, address: Address, clock: Clock, tls: ssl.SSLContext | None = None) -> None:
        self.address = address
        self.tls = tls
        self.breaker = Breaker(clock)
        self.usual_ns = 0.0
        self.rests_until_ns = 0


class Endpoints:
    """All servers of a client. Its methods may be called by any thread."""

    def __init__(self, urls: str | Sequence[str], options: Options, clock: Clock | None = None) -> None:
        addresses = [address_of(url) for url in ([urls] if isinstance(urls, str) else urls)]
        if not 1 <= len(addresses) <= ENDPOINTS_MAX:
            raise SetupError(f"{len(addresses)} addresses", where="urls", next=f"name 1 to {ENDPOINTS_MAX} servers")
        clock = clock or MonotonicClock()
        self.now_ns = clock.now_ns
        tls = tls_context(options) if any(address.is_secret for address in addresses) else None
        self.all = [Endpoint(address, clock, tls if address.is_secret else None) for address in addresses]
        self.usual = UsualTime()
        self._options = options
        self._retries = Share(options.retry_share)
        self._hedges = Share(options.hedge_share, saved=0.0)  # from the first call on no more than its share
        self._lock = threading.Lock()
        self._turn = 0

    def unlock(self) -> None:
        """Be of use in a forked process, whatever a thread of the other one was doing."""
        self._lock = threading.Lock()

    def choose(self, tried: Sequence[Endpoint] = ()) -> Endpoint:
        """Return the server to ask now, an untried one if there is one. Raises ExchangeError if none may be."""
        with self._lock:
            self._turn += 1
            if len(self.all) == 1:
                endpoint = self.all[0]
                if not endpoint.breaker.is_open or endpoint.breaker.allows():
                    return endpoint
            else:
                for endpoint in self._in_order(tried):
                    if endpoint.breaker.allows():
                        return endpoint
        raise ExchangeError(
            UnavailableError(
                "too many of the last calls failed", where=_named(self.all), next="look at the server; ask again later"
            )
        )

    def _in_order(self, tried: Sequence[Endpoint]) -> list[Endpoint]:
        """Return the servers, first those untried, then those that do not rest, by what they take or in turn."""
        start = self._turn % len(self.all)
        turned = self.all[start:] + self.all[:start]
        by_turns = self._options.choose == "turns" or self._turn % LOOK_ROUND == 0
        now_ns = self.now_ns()
        return sorted(
            turned,
            key=lambda each: (each in tried, each.rests_until_ns > now_ns, 0.0 if by_turns else each.usual_ns),
        )

    def may_hedge(self) -> bool:
        """Return whether a call may be sent a second time; that is then paid for."""
        with self._lock:
            return self._hedges.take()

    def may_retry(self) -> bool:
        """Return whether a call may be repeated; that is then paid for."""
        with self._lock:
            return self._retries.take()

    def begin(self) -> None:
        """Note a new call: it earns its share of repetitions."""
        with self._lock:
            self._retries.earn()
            self._hedges.earn()

    def note(self, endpoint: Endpoint, began_ns: int, *, is_failure: bool, rest_ns: int = 0) -> None:
        """Note how an exchange ended."""
        now_ns = self.now_ns()
        with self._lock:
            endpoint.breaker.note(now_ns, is_failure=is_failure)
            if rest_ns:
                endpoint.rests_until_ns = now_ns + rest_ns
            elif not is_failure:
                took_ns = now_ns - began_ns
                endpoint.usual_ns += (took_ns - endpoint.usual_ns) * (WEIGHT if endpoint.usual_ns else 1.0)
                self.usual.note(took_ns)


class Course:
    """One call's way from attempt to attempt, until it has an answer or may not go on. ends_ns: its deadline."""

    __slots__ = ("_attempts", "_endpoints", "_failure", "_is_repeatable", "ends_ns", "tried")

    def __init__(self, endpoints: Endpoints, budget_ns: int, *, is_repeatable: bool) -> None:
        endpoints.begin()
        self._endpoints = endpoints
        self._is_repeatable = is_repeatable
        self._attempts = 0
        self._failure: ExchangeError | None = None
        self.tried: tuple[Endpoint, ...] = ()
        self.ends_ns = endpoints.now_ns() + budget_ns

    def choose(self) -> Endpoint:
        """Return the server of the next attempt."""
        self._attempts += 1
        try:
            endpoint = self._endpoints.choose(self.tried)
        except ExchangeError as failure:
            raise self._failure or failure from None
        self.tried = (*self.tried, endpoint)
        return endpoint

    def answered(self, endpoint: Endpoint, began_ns: int, answer: Answer) -> float | None:
        """Note an answer. Returns the seconds to wait before the call is repeated; None where this is its answer."""
        status = answer.status
        after_s = seconds_of(answer.retry_after) if status == SHED else None
        if after_s is None:  # nobody says that asking again is of use
            rest_ns = REST_NS if status >= 500 or status in MISPLACED else 0
            self._endpoints.note(endpoint, began_ns, is_failure=status in GONE, rest_ns=rest_ns)
            return None
        self._endpoints.note(endpoint, began_ns, is_failure=False, rest_ns=max(int(after_s * NS_PER_S), 1))
        if self._has_untried():
            after_s = 0.0
        return after_s if self._may_repeat(after_s) else None

    def failed(self, endpoint: Endpoint, began_ns: int, failure: ExchangeError) -> float:
        """Note an exchange without an answer. Returns the seconds to wait before the call is repeated.

        Raises the failure where the call is not repeated.
        """
        if not failure.is_ours:
            self._endpoints.note(endpoint, began_ns, is_failure=True, rest_ns=REST_NS)
        is_safe = failure.is_unsent or (self._is_repeatable and not failure.is_late)
        after_s = 0.0 if self._has_untried() else PAUSE_S * 2**self._attempts * (0.5 + random.random())
        if not is_safe or not self._may_repeat(after_s):
            raise failure
        self._failure = failure
        return after_s

    def _has_untried(self) -> bool:
        return any(each not in self.tried for each in self._endpoints.all)

    def _may_repeat(self, after_s: float) -> bool:
        left_s = (self.ends_ns - self._endpoints.now_ns()) / NS_PER_S
        return after_s < left_s and self._attempts < ATTEMPTS_MAX and self._endpoints.may_retry()


def seconds_of(retry_after: bytes) -> float | None:
    """Return the seconds of a Retry-After; None where it is absent or a date, which a monotonic clock cannot tell."""
    return float(min(int(retry_after[:9]), RETRY_AFTER_S_MAX)) if retry_after.isdigit() else None


def late(endpoint: Endpoint) -> ExchangeError:
    """Return the failure of a call whose budget is used up."""
    error = DeadlineExceededError(
        "no answer within the call's budget", where=endpoint.address.url, next="give it more, or look at the server"
    )
    return ExchangeError(error, is_late=True)


def crowded(endpoint: Endpoint) -> ExchangeError:
    """Return the failure of a call that waited for a free connection until its budget was used up."""
    error = DeadlineExceededError(
        "no connection came free within the call's budget", where=endpoint.address.url, next="raise connections_max"
    )
    return ExchangeError(error, is_late=True, is_ours=True)


def _named(endpoints: Sequence[Endpoint]) -> str:
    return ", ".join(each.address.url for each in endpoints[:4])
