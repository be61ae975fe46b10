"""The admin port: /metrics, /status, /alerts, runbooks, the console, probes. In the supervisor; bounded."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final, Protocol, cast

import msgspec

from tailrace.batch import JSON, Call
from tailrace.errors import ServingError, SetupError, UnauthorizedError, UnavailableError
from tailrace.loop_load import LoopLoad
from tailrace.monitor.alerts.watch import Alert
from tailrace.monitor.drift.outcomes import LiveOutcomes
from tailrace.monitor.drift.shown import ShownDrift
from tailrace.monitor.recent import Latencies
from tailrace.monitor.snapshot import PipelineSnapshot
from tailrace.monitor.tracing.outcomes import TraceState
from tailrace.server.control import PipelineReady, ReleasedPipeline
from tailrace.server.endpoint import Answer, Gate, Page
from tailrace.server.http.limits import HttpLimits
from tailrace.server.http.outgoing import HttpCall
from tailrace.server.http.secure import Secured
from tailrace.server.http.server import HttpServer
from tailrace.server.logging import logger
from tailrace.server.runbooks import runbook_pages
from tailrace.server.tls.certificates import Certificates, TlsFiles

CONNECTIONS_MAX: Final = 64
LIMITS: Final = HttpLimits(
    body_bytes_max=1 << 10,
    header_bytes_max=8 << 10,
    connections_max=CONNECTIONS_MAX,
    bytes_max=1 << 20,
    idle_s=5.0,
    request_s=5.0,
)
SWEEP_S: Final = 1.0
OPEN_METRICS: Final = "application/openmetrics-text"
_NO_STORE: Final = (b"Cache-Control: no-store",)


class WorkerStatus(msgspec.Struct, frozen=True):
    """One worker slot. pid 0: none runs at the moment. adopted_by: the slot that accepts for it meanwhile."""

    slot: int
    pid: int
    state: str
    restarts: int
    rss_bytes: int
    ready_s: float | None
    release: str | None
    adopted_by: int | None


class CompanionStatus(msgspec.Struct, frozen=True):
    """One process beside the workers. pid 0: none runs at the moment. origin: what a consumer follows."""

    name: str
    pid: int
    state: str
    restarts: int
    rss_bytes: int
    origin: str | None = None


class ReleaseStatus(msgspec.Struct, frozen=True):
    """One release that is served now. workers: the slots of those that serve it."""

    id: str
    workers: tuple[int, ...]
    pipelines: tuple[ReleasedPipeline, ...]


class PredictionStatus(msgspec.Struct, frozen=True):
    """What has become of predictions since the start: requests that the log has, and that were lost, by the reason."""

    logged: int
    lost: dict[str, int]


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of /status. pipelines: since the start; recent: over the last `recent_s`; warm_up: measured then.

    latencies: over a minute and over ten, by span and pipeline.
    signatures_required: whether a registry's version is served only if a trusted key has signed it. alerts: those that
    fire, and those that will if they hold on. drift: the last window of each pipeline, empty without an observer.
    traces: how their export is doing; None where none are made, and while the observer says nothing.
    outcomes: how good the predictions of 30 days were, of the pipelines whose labels have come.
    """

    version: str
    pid: int
    uptime_s: float
    ready: bool
    address: str
    releases: list[ReleaseStatus]
    workers: list[WorkerStatus]
    companions: list[CompanionStatus]
    pipelines: tuple[PipelineSnapshot, ...]
    recent_s: float
    recent: tuple[PipelineSnapshot, ...]
    latencies: dict[str, dict[str, Latencies]]
    warm_up: tuple[PipelineReady, ...]
    signatures_required: bool
    alerts: list[Alert]
    drift: dict[str, ShownDrift]
    predictions: PredictionStatus
    traces: TraceState | None
    outcomes: dict[str, LiveOutcomes]


class AdminView(Protocol):
    """What the admin port shows."""

    def metrics_page(self, *, is_open: bool = False) -> bytes:
        """Return the page of /metrics, in OpenMetrics' form where it is to be open."""
        ...

    def status(self) -> Status:
        """Return the answer of /status."""
        ...

    def alerts(self) -> list[Alert]:
        """Return the answer of /alerts."""
        ...

    def is_ready(self) -> bool:
        """Return whether traffic is served."""
        ...


class TokenGate:
    """Lets those pass who send the admin token; it is compared in a time that does not depend on where it is wrong."""

    def __init__(self, token: str) -> None:
        self._expected = f"Bearer {token}".encode()

    def refusal(self, call: Call) -> ServingError | None:
        """Return why a call may not pass."""
        head = cast(HttpCall, call).head
        if head is not None and hmac.compare_digest(head.authorization, self._expected):
            return None
        return UnauthorizedError("this page needs the admin token", next="send Authorization: Bearer …")


class AdminServer:
    """Serves the admin pages. token: wanted for the figures, if there is one; never for the probes.

    tls: what connections are made secret with; None for plain ones. more: makes the pages beside its own, of the gates
    that figures are behind.
    """

    def __init__(
        self,
        view: AdminView,
        token: str | None = None,
        tls: TlsFiles | None = None,
        more: Callable[[Sequence[Gate]], dict[bytes, Page]] = lambda gates: {},
    ) -> None:
        self._more = more
        self._tls = tls
        self.address: tuple[str, int] = ("", 0)
        self._view = view
        self._gates = [TokenGate(token)] if token else []
        self._server: asyncio.Server | None = None
        self._sweeping: asyncio.Task[None] | None = None

    async def open(self, host: str, port: int) -> None:
        """Listen. Raises SetupError where the address cannot be had."""
        loop = asyncio.get_running_loop()
        pages = {
            b"/metrics": Page(
                partial(self._metrics, is_open=False),
                self._gates,
                forms={OPEN_METRICS: Page(partial(self._metrics, is_open=True), self._gates)},
            ),
            b"/status": Page(self._status, self._gates),
            b"/alerts": Page(self._alerts, self._gates),
            b"/livez": Page(_alive),
            b"/readyz": Page(self._readiness),
            **runbook_pages(),
            **self._more(self._gates),
        }
        routes = {path: {b"GET": page} for path, page in pages.items()}
        http = HttpServer(routes, LIMITS, LoopLoad(loop), lambda kind: None)
        protocol: Callable[[], asyncio.Protocol] = http
        looks = [http.sweep]
        if self._tls is not None:
            certificates = Certificates(self._tls)
            protocol = Secured(http.shared, certificates)
            looks.append(certificates.look)
        try:
            self._server = await loop.create_server(protocol, host, port)
        except OSError as error:
            raise SetupError(
                f"cannot listen: {error.strerror or error}", where=f"{host}:{port}", next="choose another admin port"
            ) from error
        name = self._server.sockets[0].getsockname()
        self.address = (name[0], name[1])
        self._sweeping = asyncio.create_task(_sweep(looks))

    def close(self) -> None:
        """Stop listening."""
        if self._sweeping is not None:
            self._sweeping.cancel()
        if self._server is not None:
            self._server.close()

    def _metrics(self, *, is_open: bool) -> Answer:
        """Return the page of /metrics, as OpenMetrics or as plain text."""
        from tailrace.monitor.exposition import CONTENT_TYPE, OPEN_CONTENT_TYPE  # no start should wait 50 ms for it

        content_type = OPEN_CONTENT_TYPE if is_open else CONTENT_TYPE
        return Answer(200, content_type.encode(), self._view.metrics_page(is_open=is_open), _NO_STORE)

    def _status(self) -> Answer:
        """Return the page of /status."""
        return Answer(200, JSON, msgspec.json.encode(self._view.status()), _NO_STORE)

    def _alerts(self) -> Answer:
        """Return the page of /alerts."""
        return Answer(200, JSON, msgspec.json.encode(self._view.alerts()), _NO_STORE)

    def _readiness(self) -> Answer:
        """Return the page of /readyz."""
        if not self._view.is_ready():
            raise UnavailableError("not ready", where="/readyz", next="ask again; a start takes seconds")
        return Answer(200, b"text/plain", b"ready\n", _NO_STORE)


def _alive() -> Answer:
    """Return the page of /livez."""
    return Answer(200, b"text/plain", b"alive\n", _NO_STORE)


async def _sweep(looks: Sequence[Callable[[], None]]) -> None:
    """Look after the connections once a second, and the certificate."""
    with suppress(asyncio.CancelledError):
        while True:
            await asyncio.sleep(SWEEP_S)
            try:
                for look in looks:
                    look()
            except Exception:  # without its sweep the port would be full of idle clients one day
                logger().error("admin sweep failed", exc_info=True)
