"""How a server is run: one frozen type for every setting, read by the supervisor and sent to each worker."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Final

import msgspec

from tailrace.errors import SetupError
from tailrace.ingest.origin import ORIGINS_MAX, StreamOrigin
from tailrace.release.registry.child import RegistryChoice
from tailrace.server.unix_socket import check_unix

WORKERS_MAX: Final = 256


class ServeOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Every setting of `tailrace serve`. Units come last in the names; every limit has a value.

    files: Python files that declare pipelines. port, admin_port: 0 takes a free one. unix: the path of a socket beside
    the port; unix_mode: who may connect to it, in octal digits; unix_takeover: it is had though another server answers
    there. store: replaces the store of the declarations. releases: the directory that releases are kept in; None takes
    one beside the store, or beside the first file. sample_requests: the file that a sample of what is served is
    appended to; each worker has its own, with its slot behind the name. registry: of the models that are a version and
    name none. admin_token: wanted as `Authorization: Bearer …` by /metrics and /status; needed where the admin port is
    not on loopback.
    Raises SetupError for a value out of range, or an origin that cannot be followed.
    """

    files: tuple[str, ...]
    host: str = "127.0.0.1"
    port: int = 8080
    unix: str | None = None
    unix_mode: str = "600"
    unix_takeover: bool = False
    keys: str | None = None
    """The file of the API keys, one of which each call must show."""
    no_auth: bool = False
    """Whether all who can reach the server may call it, where that is not this machine alone."""
    admin_host: str = "127.0.0.1"
    admin_port: int = 8081
    admin_token: str | None = None
    workers: int = 1
    refresh: bool = False
    """Whether a process materialises batch views again as often as they say."""
    ingest: tuple[str, ...] = ()
    """Brokers whose events are counted, each by a process of its own: `URL`, or `STREAM=URL`."""
    ingest_group: str = "tailrace"
    """The consumer group of all of them."""
    store: str | None = None
    releases: str | None = None
    sample_requests: str | None = None
    registry: str | None = None
    trusted_keys: tuple[str, ...] = ()
    """Files of the public keys whose versions are taken; none takes all."""

    body_bytes_max: int = 1 << 20
    header_bytes_max: int = 16 << 10
    connections_max: int = 10_000
    """Connections a worker holds open at most."""
    partial_bytes_max: int = 256 << 20
    """Bytes of requests received in part that a worker holds at most, over all connections; beyond, 503."""
    array_max: int = 1_000
    """Requests one call may carry in an array."""

    cache_bytes_max: int = 0
    """Memory for rows of a network store, a pipeline and worker; 0 keeps none."""
    cache_ttl_s: float = 10.0
    """How old a kept row may be, and what its view's `max_staleness` says if that is less."""
    cache_stale_s: float = 600.0
    """How much older a kept row may be, where the store fails, before defaults answer."""

    idle_s: float = 60.0
    """How long a connection may be silent between requests."""
    request_s: float = 5.0
    """How long a client may take to send one request."""
    pre_drain_s: float = 0.0
    """How long a stopping server goes on as before, but for `/readyz`: a balancer takes its time to see that."""
    drain_s: float = 30.0
    """How long a stopping worker may take for the calls in flight."""
    start_s: float = 120.0
    """How long a worker may take from its start to ready."""
    heartbeat_s: float = 1.0
    """How often a worker says that its loop runs."""
    frozen_s: float = 10.0
    """A worker silent for so long is killed and replaced."""

    @property
    def registry_choice(self) -> RegistryChoice:
        """Which versions of models are taken, and from where."""
        return RegistryChoice(self.registry, self.trusted_keys)

    def __post_init__(self) -> None:
        for name in ("port", "admin_port"):
            _check_range(name, getattr(self, name), 0, 65_535)
        check_unix(self.unix, self.unix_mode)
        _check_range("workers", self.workers, 1, WORKERS_MAX)
        for name in ("body_bytes_max", "header_bytes_max", "connections_max", "partial_bytes_max", "array_max"):
            _check_range(name, getattr(self, name), 1, 1 << 40)
        _check_range("cache_bytes_max", self.cache_bytes_max, 0, 1 << 40)
        _check_range("cache_ttl_s", self.cache_ttl_s, 0.001, 86_400)
        for name in ("idle_s", "request_s", "start_s", "heartbeat_s", "frozen_s"):
            _check_range(name, getattr(self, name), 0.001, 86_400)
        for name in ("pre_drain_s", "drain_s", "cache_stale_s"):
            _check_range(name, getattr(self, name), 0, 86_400)
        _check_range("ingest", len(self.ingest), 0, ORIGINS_MAX)
        for origin in self.ingest:
            StreamOrigin.parse(origin)
        if not self.ingest_group:
            raise SetupError("the consumer group has no name", where="ingest_group", next="give it one")
        if self.frozen_s < 2 * self.heartbeat_s:
            raise SetupError("frozen_s must be at least twice heartbeat_s", where="frozen_s", next="make it longer")
        self._check_reach()

    def _check_reach(self) -> None:
        """Raise SetupError for a port that others can reach, and ask nothing of them."""
        if not is_loopback(self.host) and not self.keys and not self.no_auth:
            raise SetupError(
                f"the server would be open to others at {self.host} without keys",
                where="host",
                next="make a key and give --keys FILE; or give --no-auth, where whoever reaches it may call it",
            )
        if not is_loopback(self.admin_host) and not self.admin_token:
            raise SetupError(
                f"the admin port would be open to others at {self.admin_host} without a token",
                where="admin_host",
                next="keep it on 127.0.0.1, or set an admin token",
            )


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach the host."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _check_range(name: str, value: float, low: float, high: float) -> None:
    """Raise SetupError unless low <= value <= high."""
    if not low <= value <= high:
        raise SetupError(f"{value} is out of range", where=name, next=f"choose from {low:g} to {high:g}")
