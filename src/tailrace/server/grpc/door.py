"""The gRPC server of one worker: made of its pipelines, opened when it is ready, swept and drained with it."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from tailrace.deadline import Clock
from tailrace.server.entrance import Entrance
from tailrace.server.grpc.call import Desk
from tailrace.server.grpc.credentials import credentials_of
from tailrace.server.grpc.limits import GrpcLimits
from tailrace.server.grpc.predictor import predictors
from tailrace.server.grpc.server import GrpcServer
from tailrace.server.http.shared import Shared
from tailrace.server.oip.grpc_service import OipService
from tailrace.server.options import ServeOptions
from tailrace.server.readiness import Readiness
from tailrace.server.request_ids import RequestIds
from tailrace.server.slots import resolve


class GrpcDoor:
    """Takes the same calls as the HTTP server does, by the same entrances and with its keys.

    http: what the connections of that one share. ids: see `Desk`.
    """

    def __init__(
        self, entrances: Sequence[Entrance], options: ServeOptions, http: Shared, clock: Clock, release: str,
        readiness: Readiness, ids: RequestIds | None = None,
    ) -> None:  # fmt: skip
        self._options = options
        services, without = predictors(entrances)
        if without:
            structlog.get_logger().warning(
                "pipelines have no service for gRPC: run `tailrace export proto`", pipelines=without
            )
        models = OipService(
            {each.pipeline.name: (each.model, each.tensors) for each in entrances}, lambda: readiness.is_ready
        )
        desk = Desk(
            http.count_failure, clock.now_ns, http.keys, http.proxies, ids, with_priority=options.priority_header
        )  # fmt: skip
        self.server = GrpcServer([*services, models.service()], GrpcLimits.of(options), desk, release)
        readiness.listeners.append(lambda is_ready: self.server.health.set(is_ready=is_ready))

    def open(self) -> None:
        """Serve. Raises SetupError where the port cannot be had."""
        port = self._options.grpc_port
        assert port is not None
        host = resolve(self._options.host, port)[1][0]
        self.server.open(f"[{host}]:{port}" if ":" in host else f"{host}:{port}", credentials_of(self._options))

    def sweep(self) -> None:
        """Once a second; see `GrpcServer.sweep`."""
        self.server.sweep()

    async def drain(self) -> None:
        """Answer what is in flight, and leave."""
        await self.server.drain(self._options.drain_s)
