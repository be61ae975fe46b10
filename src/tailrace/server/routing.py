"""Which path of the serving port leads to what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tailrace.server.endpoint import CallEndpoint, Page, RouteTable
from tailrace.server.entrance import Entrance
from tailrace.server.oip.routes import oip_routes
from tailrace.server.readiness import Readiness


def probe_routes(readiness: Readiness) -> RouteTable:
    """Return the routes of the probes."""
    return {b"/livez": {b"GET": Page(readiness.livez)}, b"/readyz": {b"GET": Page(readiness.readyz)}}


def pipeline_routes(entrances: Iterable[Entrance]) -> RouteTable:
    """Return the routes of pipelines."""
    return {f"/v1/pipelines/{each.pipeline.name}/predict".encode(): {b"POST": each.requests} for each in entrances}


def model_routes(entrances: Iterable[Entrance], readiness: Readiness, *, with_keys: bool = False) -> RouteTable:
    """Return the routes of the Open Inference Protocol, where a pipeline is a model. with_keys: see `oip_routes`."""
    models = [(each.model, each.tensors) for each in entrances]
    return oip_routes(models, readiness.readyz, with_keys=with_keys)


def stream_routes(endpoints: Mapping[bytes, CallEndpoint]) -> RouteTable:
    """Return the routes of streams, each with its endpoint by its path."""
    return {path: {b"POST": endpoint} for path, endpoint in endpoints.items()}
