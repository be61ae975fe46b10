"""The Open Inference Protocol over gRPC, beside a `RunningServer`, on its loop and its endpoints."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from http_server import PATIENCE_S, RELEASE, RunningServer

from tailrace.server.grpc.call import Desk
from tailrace.server.grpc.limits import GrpcLimits
from tailrace.server.grpc.server import GrpcServer
from tailrace.server.keys import Keys
from tailrace.server.oip.grpc_service import OipService
from tailrace.server.request_ids import RequestIds


@contextmanager
def oip_over_grpc(http: RunningServer, keys: Keys | None = None, ids: RequestIds | None = None) -> Iterator[str]:
    """Serve the models of a server over gRPC too; yield the address."""

    def start() -> tuple[GrpcServer, int]:
        models = {each.pipeline.name: (each.model, each.tensors) for each in http.entrances}
        service = OipService(models, lambda: http.readiness.is_ready).service()
        desk = Desk(http.recorder.record_failure, http.endpoints[0].engine.clock.now_ns, keys, ids=ids)
        server = GrpcServer([service], GrpcLimits.of(http.options), desk, RELEASE)
        return server, server.open("127.0.0.1:0")

    server, port = http.on_loop(start)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        asyncio.run_coroutine_threadsafe(server.drain(5.0), http.loop).result(PATIENCE_S)
