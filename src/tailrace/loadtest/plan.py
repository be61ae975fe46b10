"""What to send, where, and how fast: the frozen plan of a load run, and the limits it is held to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple
from urllib.parse import urlsplit

from tailrace.deadline import NS_PER_MS
from tailrace.errors import LoadtestError

SHOTS_MAX: Final = 10_000_000
CONNECTIONS_MAX: Final = 10_000
PROCESSES_MAX: Final = 64
BODIES_BYTES_MAX: Final = 256 << 20
"""All bodies of a plan together; and, with `keep_bodies`, all kept answers of one sending process."""
LAG_SHARE_MAX: Final = 0.05
"""The part of the budget that the generator's own p99 schedule lag may take before a run counts as invalid."""


class Target(NamedTuple):
    """Where requests go: host and port to connect to, path (with its query) to ask for."""

    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """The value of the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """One load run: `rate` × `duration_s` shots. A shot is one request with its time, fixed before the run starts.

    url: http://host[:port]/path. bodies: JSON documents to POST; shot i sends `bodies[i % len(bodies)]`; none: GET.
    rate: shots per second. arrival: "constant" (evenly spaced) or "poisson" (independent arrivals, drawn from `seed`).
    headers: extra (name, value) pairs. budget_ns: what an answer may take; 5% of it is what the generator's own lag
    may take. processes: sending processes; shots and connections are dealt out over them. keep_bodies: return the
    body of every answer. drain_s: how long to wait for answers after the last second of the schedule.
    depth_max: requests in flight on one connection (HTTP pipelining) before a shot has to wait for room.
    unix: the path of the socket that is connected to, in place of the URL's host.
    spin: never sleep; answers are then read some 50 µs sooner, at the cost of one whole core a sending process.

    Raises LoadtestError for anything outside its limits.
    """

    url: str
    bodies: Sequence[bytes] = ()
    rate: float = 100.0
    duration_s: float = 10.0
    connections: int = 64
    arrival: Literal["constant", "poisson"] = "constant"
    seed: int = 0
    headers: Sequence[tuple[str, str]] = ()
    budget_ns: int = 50 * NS_PER_MS
    processes: int = 1
    keep_bodies: bool = False
    drain_s: float = 5.0
    depth_max: int = 1_024
    spin: bool = False
    unix: str | None = None

    def __post_init__(self) -> None:
        parse_url(self.url)
        self._check_amounts()
        if self.shots > SHOTS_MAX:
            raise LoadtestError(
                f"{self.rate:g}/s for {self.duration_s:g} s are {self.shots:,} requests; the limit is {SHOTS_MAX:,}",
                where="rate × duration",
                next="shorten the run; the times of each are kept in memory so that percentiles are exact",
            )
        if self.shots < 1:
            raise LoadtestError(
                f"{self.rate:g}/s for {self.duration_s:g} s send nothing",
                where="rate × duration",
                next="raise the rate or the duration",
            )
        if not 1 <= self.processes <= min(PROCESSES_MAX, self.connections):
            raise LoadtestError(
                f"{self.processes} processes cannot share {self.connections} connections",
                where="processes",
                next=f"ask for 1 to {min(PROCESSES_MAX, self.connections)}; each needs a connection of its own",
            )
        for name, value in self.headers:
            if not name.isascii() or not name or any(mark in name + value for mark in "\r\n\0") or ":" in name:
                raise LoadtestError(f"{name!r}: {value!r} is not a header", where="headers", next="write 'Name: value'")

    def _check_amounts(self) -> None:
        bounds = (
            ("rate", self.rate, 0.001, 1e7),
            ("duration_s", self.duration_s, 0.001, 1e6),
            ("connections", self.connections, 1, CONNECTIONS_MAX),
            ("budget_ns", self.budget_ns, 1, 1e15),
            ("drain_s", self.drain_s, 0, 600),
            ("depth_max", self.depth_max, 1, 1e6),
            ("bodies (bytes)", sum(map(len, self.bodies)), 0, BODIES_BYTES_MAX),
        )
        for name, amount, low, high in bounds:
            if not low <= amount <= high:
                raise LoadtestError(
                    f"{amount:,} is out of range", where=name, next=f"use {low:,} to {high:,}".replace(".0", "")
                )

    @property
    def shots(self) -> int:
        """How many requests the schedule holds."""
        return round(self.rate * self.duration_s)

    @property
    def lag_ns_max(self) -> float:
        """The p99 schedule lag above which the run is invalid."""
        return self.budget_ns * LAG_SHARE_MAX


def parse_url(url: str) -> Target:
    """Return the target of an http:// URL; raise LoadtestError that says what an accepted one looks like."""
    advice = "write it as http://127.0.0.1:8080/v1/pipelines/fraud/predict"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise LoadtestError(f"not a URL: {error}", where=url, next=advice) from None
    if parts.scheme != "http":
        raise LoadtestError("the load generator speaks plain http:// only", where=url, next=advice)
    if not parts.hostname or parts.username is not None:
        raise LoadtestError("a host is missing, or carries a user name", where=url, next=advice)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not path.isascii() or any(character <= " " for character in path):
        raise LoadtestError("the path holds characters that must be percent-encoded", where=url, next=advice)
    return Target(parts.hostname, 80 if port is None else port, path)
