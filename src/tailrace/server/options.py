"""How a server is run: one frozen type for every setting, read by the supervisor and sent to each worker.

Each setting says what it is, which is what `tailrace serve --help` and the docs show: a new one is written here alone.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING, Annotated, Final

import msgspec

from tailrace.errors import SetupError

if TYPE_CHECKING:
    from tailrace.release.registry.child import RegistryChoice
    from tailrace.server.tls.certificates import TlsFiles

WORKERS_MAX: Final = 256


def said(meaning: str, **shown: str) -> msgspec.Meta:
    """Return what a setting's option shows: its meaning, and where it is not as its name has it, the rest.

    group: of the settings from this one on. flag: its name. metavar: what stands for its value. env: the variable that
    it is read from; one that is set and empty is the setting's default, or, where `emptied` says what that would do, an
    error. injected: a platform sets it for all that it runs, so that what cannot be done with it is only warned of.
    """
    return msgspec.Meta(description=meaning, extra=shown)


class ServeOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Every setting of `tailrace serve`. Units come last in the names; every limit has a value.

    unix_takeover: the socket is had though another server answers there. no_auth: whether all who can reach the server
    may call it, where that is not this machine alone. ingest: each broker is followed by a process of its own.
    releases: None takes a directory beside the store, or beside the first file. sample_requests: each worker has a file
    of its own, with its slot behind the name. admin_token: wanted as `Authorization: Bearer …` by /metrics and /status.
    connections_max, partial_bytes_max: of one worker; the bytes over all its connections. cache_ttl_s: or what a view's
    `max_staleness` says, if that is less. pre_drain_s: a balancer takes its time to see that a server stops.

    This file imports little: the command line reads it to show its help. Raises SetupError for a value out of range, or
    an origin that cannot be followed.
    """

    files: Annotated[tuple[str, ...], said("Python files that declare pipelines.", metavar="FILE")]
    host: Annotated[str, said("Address to serve on; 0.0.0.0 for all of them.", group="Where it is reached")] = (
        "127.0.0.1"
    )
    port: Annotated[int, said("Port to serve on; 0 takes a free one.")] = 8080
    grpc_port: Annotated[int | None, said("Serve gRPC too, on this port; 0 takes a free one.")] = None
    unix: Annotated[str | None, said("Serve on a Unix socket too, for callers on this host.", metavar="PATH")] = None
    unix_mode: Annotated[str, said("Mode of its file: 660 lets its group connect.")] = "600"
    unix_takeover: Annotated[bool, said("Take PATH from a server that answers there, once ready.")] = False
    tls_cert: Annotated[
        str | None, said("Certificate of the server with its chain (PEM): serve by TLS alone.", metavar="FILE")
    ] = None
    tls_key: Annotated[str | None, said("Private key of --tls-cert (PEM).", metavar="FILE")] = None
    tls_client_ca: Annotated[
        str | None,
        said("Authorities of callers' certificates (PEM), with lists of revoked ones if any.", metavar="FILE"),
    ] = None
    keys: Annotated[
        str | None,
        said(
            "File of API keys, one of which each call must show.",
            group="Who may call", metavar="FILE", env="TAILRACE_KEYS", emptied="no keys would be asked for",
        ),
    ] = None  # fmt: skip
    jwks: Annotated[
        str | None,
        said("Keys of who signs tokens of callers (JWT): a JSON Web Key Set, or its https:// URL.", metavar="FILE|URL"),
    ] = None
    jwt_issuer: Annotated[str | None, said("Who must have signed a token: its iss.")] = None
    jwt_audience: Annotated[str | None, said("Whom a token must be for: its aud.")] = None
    trusted_proxies: Annotated[
        tuple[str, ...],
        said(
            "A proxy that is believed who calls: an address, a network, or unix; may be repeated.",
            flag="--trusted-proxy", metavar="CIDR",
        ),
    ] = ()  # fmt: skip
    proxy_header: Annotated[
        str, said("The header in which proxies tell it: X-Forwarded-For, or Forwarded (RFC 7239).")
    ] = "X-Forwarded-For"
    no_auth: Annotated[bool, said("Serve others than this machine without keys.")] = False
    priority_header: Annotated[bool, said("Let callers say X-Priority: high, normal or low.")] = False
    limits_redis: Annotated[
        str | None,
        said("Redis by which servers share rates: redis://…", metavar="URL", env="TAILRACE_LIMITS_REDIS"),
    ] = None
    workers: Annotated[int, said("Worker processes; give one a core.", group="What it runs")] = 1
    store: Annotated[str | None, said("Online store in place of the declared: lmdb:PATH, redis://…")] = None
    arrow: Annotated[bool, said("Take arrays of requests in Arrow too; needs pyarrow.")] = False
    refresh: Annotated[bool, said("Materialise batch views again as often as their refresh says.")] = False
    ingest: Annotated[
        tuple[str, ...],
        said(
            "Count a broker's events: redis://…?stream=KEY, kafka://…, or STREAM=URL; may be repeated.",
            metavar="ORIGIN",
        ),
    ] = ()
    ingest_group: Annotated[str, said("The consumer group of --ingest.")] = "tailrace"
    releases: Annotated[
        str | None,
        said("Directory of pinned releases; default: by FILE, or by --store.", env="TAILRACE_RELEASES"),
    ] = None
    sample_requests: Annotated[
        str | None, said("Append a sample of what is served to FILE.SLOT, as JSON lines.", metavar="FILE")
    ] = None
    observe: Annotated[bool, said("Watch what is predicted for drift, and show slow requests; --log does so too.")] = (
        False
    )
    log: Annotated[
        str | None,
        said("Keep what is predicted, and of what, in Parquet files under DIR.", metavar="DIR", env="TAILRACE_LOG"),
    ] = None
    log_to: Annotated[
        tuple[str, ...],
        said(
            "Send the log on: s3://…, kafka://HOST:PORT/TOPIC, redis://…?stream=KEY; may be repeated.",
            metavar="URL", env="TAILRACE_LOG_TO",
        ),
    ] = ()  # fmt: skip
    log_retention_s: Annotated[float, said("Seconds for which the files of --log are kept.")] = 2_592_000.0
    log_bytes_max: Annotated[int, said("Bytes that they may take; the oldest go first.")] = 10 << 30
    traces: Annotated[
        str | None,
        said(
            "Send traces to a collector that takes OTLP over HTTP: http://HOST:4318", metavar="URL",
            env="OTEL_EXPORTER_OTLP_ENDPOINT", injected="yes",
        ),
    ] = None  # fmt: skip
    traces_headers: Annotated[
        str | None,
        said("Headers sent with them, a token say.", metavar="NAME=VALUE,…", env="OTEL_EXPORTER_OTLP_HEADERS"),
    ] = None
    trace_sample: Annotated[
        float, said("Share of requests traced, beside those that callers trace, and that are slow, degraded or fail.")
    ] = 0.01
    registry: Annotated[
        str | None, said("Registry of models that are a version and name no registry.", env="TAILRACE_REGISTRY")
    ] = None
    trusted_keys: Annotated[
        tuple[str, ...],
        said(
            "A public key (PEM, Ed25519) whose versions are taken; may be repeated. None takes all.",
            flag="--trusted-key", metavar="FILE", env="TAILRACE_TRUSTED_KEYS",
            emptied="anybody's versions would be taken",
        ),
    ] = ()  # fmt: skip
    admin_host: Annotated[str, said("Address of /metrics and /status.", group="The admin port")] = "127.0.0.1"
    admin_port: Annotated[int, said("Port of /metrics and /status; 0 takes a free one.")] = 8081
    admin_token: Annotated[
        str | None, said("Bearer token of the admin port; needed off loopback.", env="TAILRACE_ADMIN_TOKEN")
    ] = None

    alert_webhook: Annotated[
        str | None,
        said(
            "Tell alerts to a webhook as Slack has it: https://…", group="Alerts", metavar="URL",
            env="TAILRACE_ALERT_WEBHOOK",
        ),
    ] = None  # fmt: skip
    alertmanager: Annotated[
        str | None,
        said("Tell alerts to Alertmanager: http://HOST:9093", metavar="URL", env="TAILRACE_ALERTMANAGER"),
    ] = None
    runbooks: Annotated[
        str | None,
        said("Where alerts send a reader, in place of the admin port: https://…", metavar="URL"),
    ] = None

    accepted: Annotated[
        str | None,
        said(
            "Where requests sent with ?mode=accepted wait on disk, until their results are delivered.",
            group="Accepted requests", metavar="DIR", env="TAILRACE_ACCEPTED",
        ),
    ] = None  # fmt: skip
    accepted_max: Annotated[int, said("Accepted requests that may wait, else 503.")] = 100_000
    accepted_bytes_max: Annotated[int, said("Bytes that they may take on disk, else 503.")] = 1 << 30
    accepted_retention_s: Annotated[
        float, said("Seconds for which the X-Request-Id of one is known, and a result kept that was set aside.")
    ] = 86_400.0

    body_bytes_max: Annotated[
        int, said("Longest body; a longer one is answered 413.", group="Bounds of what is sent")
    ] = 1 << 20
    header_bytes_max: Annotated[int, said("Longest head of a request, else 431.")] = 16 << 10
    connections_max: Annotated[int, said("Connections a worker holds open, else 503.")] = 10_000
    partial_bytes_max: Annotated[int, said("Bytes held of requests in part, else 503.")] = 256 << 20
    grpc_calls_max: Annotated[int, said("gRPC calls that a worker has open, else UNAVAILABLE.")] = 4_096
    grpc_streams_max: Annotated[int, said("gRPC calls open on one connection; its client waits with more.")] = 256
    array_max: Annotated[int, said("Requests one call may carry in an array, else 422.")] = 1_000
    cache_bytes_max: Annotated[
        int, said("Bytes kept of a network store, a pipeline and worker.", group="Rows kept in memory")
    ] = 0
    cache_ttl_s: Annotated[float, said("Seconds that a kept row is served without a read.")] = 10.0
    cache_stale_s: Annotated[float, said("Seconds more, as stale, while the store fails.")] = 600.0
    idle_s: Annotated[float, said("Seconds an idle connection is kept open.", group="Times")] = 60.0
    grpc_age_s: Annotated[float, said("Seconds until a gRPC connection is asked to be made anew.")] = 300.0
    request_s: Annotated[float, said("Seconds a client may take to send one request, else 408.")] = 5.0
    pre_drain_s: Annotated[float, said("Seconds to serve on with /readyz at 503, then drain.")] = 0.0
    drain_s: Annotated[float, said("Seconds a stopping worker has for what is in flight.")] = 30.0
    start_s: Annotated[float, said("Seconds a worker may take to be ready, else it is killed.")] = 120.0
    heartbeat_s: Annotated[float, said("Seconds between a worker's signs of life.")] = 1.0
    frozen_s: Annotated[float, said("Seconds of silence after which a worker is replaced.")] = 10.0

    @property
    def registry_choice(self) -> RegistryChoice:
        """Which versions of models are taken, and from where."""
        from tailrace.release.registry.child import RegistryChoice

        return RegistryChoice(self.registry, self.trusted_keys)

    @property
    def tls(self) -> TlsFiles | None:
        """What connections are made secret with; None for plain ones."""
        if self.tls_cert is None or self.tls_key is None:
            return None
        from tailrace.server.tls.certificates import TlsFiles

        return TlsFiles(self.tls_cert, self.tls_key, self.tls_client_ca)

    @property
    def is_observed(self) -> bool:
        """Whether workers tell an observer of what they have predicted."""
        return self.observe or self.log is not None or self.traces is not None

    @property
    def admin_tls(self) -> TlsFiles | None:
        """The same for the admin port: nothing crosses a network to one on loopback."""
        return None if is_loopback(self.admin_host) or self.tls is None else self.tls._replace(client_ca=None)

    def __post_init__(self) -> None:
        for name in ("port", "admin_port", "grpc_port"):
            _check_range(name, getattr(self, name) or 0, 0, 65_535)
        if self.unix is not None or self.unix_mode != "600":
            from tailrace.server.unix_socket import check_unix

            check_unix(self.unix, self.unix_mode)
        _check_range("workers", self.workers, 1, WORKERS_MAX)
        for name in (
            "body_bytes_max", "header_bytes_max", "connections_max", "partial_bytes_max", "array_max",
            "grpc_calls_max", "grpc_streams_max",
        ):  # fmt: skip
            _check_range(name, getattr(self, name), 1, 1 << 40)
        self._check_log()
        _check_range("accepted_max", self.accepted_max, 1, 1 << 32)
        _check_range("accepted_bytes_max", self.accepted_bytes_max, 1 << 20, 1 << 40)
        _check_range("accepted_retention_s", self.accepted_retention_s, 1, 31_622_400)
        _check_range("cache_bytes_max", self.cache_bytes_max, 0, 1 << 40)
        _check_range("cache_ttl_s", self.cache_ttl_s, 0.001, 86_400)
        for name in ("idle_s", "grpc_age_s", "request_s", "start_s", "heartbeat_s", "frozen_s"):
            _check_range(name, getattr(self, name), 0.001, 86_400)
        for name in ("pre_drain_s", "drain_s", "cache_stale_s"):
            _check_range(name, getattr(self, name), 0, 86_400)
        if self.trusted_proxies:
            from tailrace.server.proxies import Proxies

            Proxies(self.trusted_proxies, self.proxy_header)
        if self.ingest:
            self._check_origins()
        if not self.ingest_group:
            raise SetupError("the consumer group has no name", where="ingest_group", next="give it one")
        if self.frozen_s < 2 * self.heartbeat_s:
            raise SetupError("frozen_s must be at least twice heartbeat_s", where="frozen_s", next="make it longer")
        self._check_tls()
        self._check_limits()
        self._check_tokens()
        self._check_reach()
        self._check_alerts()
        self._check_traces()

    def _check_limits(self) -> None:
        """Raise SetupError for what is no Redis that limits can be shared by."""
        if self.limits_redis is not None:
            from tailrace.server.limiting.redis_lender import check_address

            check_address(self.limits_redis)

    def _check_origins(self) -> None:
        """Raise SetupError for an origin that cannot be followed, or too many."""
        from tailrace.ingest.origin import ORIGINS_MAX, StreamOrigin

        _check_range("ingest", len(self.ingest), 0, ORIGINS_MAX)
        for origin in self.ingest:
            StreamOrigin.parse(origin)

    def _check_log(self) -> None:
        """Raise SetupError for bounds of the log, or for what it cannot be sent on to."""
        _check_range("log_retention_s", self.log_retention_s, 60, 3_162_240_000)
        _check_range("log_bytes_max", self.log_bytes_max, 1 << 20, 1 << 50)
        if self.log_to:
            from tailrace.server.forwarding.address import SINKS_MAX, check_sinks

            _check_range("log_to", len(self.log_to), 0, SINKS_MAX)
            check_sinks(self.log_to, self.log)

    @property
    def asks_callers(self) -> bool:
        """Whether each call must show who it is of."""
        return bool(self.keys or self.jwks or self.tls_client_ca)

    def _check_tokens(self) -> None:
        """Raise SetupError for signers without rules, and rules without signers."""
        given = {"jwks": self.jwks, "jwt_issuer": self.jwt_issuer, "jwt_audience": self.jwt_audience}
        if any(given.values()) and (missing := [name for name, value in given.items() if not value]):
            raise SetupError(
                "a token is taken by its signer, its issuer and its audience", where=missing[0],
                next="give --jwks, --jwt-issuer and --jwt-audience together",
            )  # fmt: skip

    def _check_tls(self) -> None:
        """Raise SetupError for one half of what TLS needs."""
        if (self.tls_cert is None) != (self.tls_key is None):
            missing = "tls_key" if self.tls_key is None else "tls_cert"
            raise SetupError("a certificate and its key go together", where=missing, next="name both files, or neither")
        if self.tls_client_ca is not None and self.tls is None:
            what = "without TLS no caller shows a certificate"
            raise SetupError(what, where="tls_client_ca", next="give --tls-cert and --tls-key too")

    def _check_alerts(self) -> None:
        """Raise SetupError for what is no address that alerts can be posted to, or send a reader to."""
        if self.alert_webhook is not None or self.alertmanager is not None or self.runbooks is not None:
            from tailrace.monitor.alerts.sinks import check_address

            check_address("alert_webhook", self.alert_webhook)
            check_address("alertmanager", self.alertmanager)
            check_address("runbooks", self.runbooks, "address of pages")

    def _check_traces(self) -> None:
        """Raise SetupError for what is no address that traces can be sent to, and headers that are none."""
        _check_range("trace_sample", self.trace_sample, 0, 1)
        if self.traces is not None:
            from tailrace.monitor.tracing.endpoint import TraceEndpoint

            TraceEndpoint.of(self.traces, self.traces_headers or "")

    def _check_reach(self) -> None:
        """Raise SetupError for a port that others can reach, and ask nothing of them."""
        if not is_loopback(self.host) and not self.asks_callers and not self.no_auth:
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
