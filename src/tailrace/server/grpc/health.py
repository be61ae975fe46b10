"""The health service (grpc.health.v1), which balancers and Kubernetes ask: it follows the worker's readiness."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

from tailrace.errors import MalformedBodyError, NotFoundError
from tailrace.server.grpc.call import GrpcCall
from tailrace.server.grpc.service import Outcome, Service
from tailrace.server.grpc.stream import Stream

NAME: Final = "grpc.health.v1.Health"
_SERVING: Final[int] = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING: Final[int] = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN: Final[int] = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Health:
    """Says of each service, and of the server (the empty name), whether it serves."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = frozenset(("", *names))
        self._is_ready = False
        self._changed = asyncio.Event()

    def set(self, *, is_ready: bool) -> None:
        """Say so from now on, also to those who watch."""
        self._is_ready = is_ready
        self._changed.set()
        self._changed = asyncio.Event()

    def service(self) -> Service:
        """Return the service."""
        return Service(NAME, {"Check": self._check}, {"Watch": self._watch}, (health_pb2.DESCRIPTOR.serialized_pb,))

    def _check(self, call: GrpcCall, body: bytes) -> Outcome:
        name = _name_in(body)
        if name is None:
            return MalformedBodyError("the message is no HealthCheckRequest")
        if name not in self._names:
            return NotFoundError("no such service")
        return _written(self._status_of(name))

    async def _watch(self, stream: Stream) -> None:
        name = _name_in(await stream.read() or b"")
        if name is None:
            raise MalformedBodyError("the message is no HealthCheckRequest")
        told = None
        while True:
            changed, status = self._changed, self._status_of(name)
            if status != told:
                told = status
                await stream.write(_written(status))
            if changed is self._changed:
                await changed.wait()

    def _status_of(self, name: str) -> int:
        serving = _SERVING if self._is_ready else _NOT_SERVING
        return serving if name in self._names else _UNKNOWN


def _name_in(body: bytes) -> str | None:
    """Return the name of the service that is asked about; None for a message that is none."""
    try:
        return str(health_pb2.HealthCheckRequest.FromString(body).service)
    except DecodeError:
        return None


def _written(status: int) -> bytes:
    return bytes(health_pb2.HealthCheckResponse(status=status).SerializeToString())
