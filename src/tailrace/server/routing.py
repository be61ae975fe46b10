"""Which path of the serving port leads to what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tailrace.server.endpoint import CallEndpoint, Endpoint, Page
from tailrace.server.limiting.limiter import Limiter
from tailrace.server.oip.endpoint import rest_endpoint
from tailrace.server.oip.routes import oip_routes
from tailrace.server.options import ServeOptions
from tailrace.server.readiness import Readiness
from tailrace.server.served import Served

RouteTable = dict[bytes, dict[bytes, CallEndpoint | Page]]
"""Path to method to what serves it."""


def probe_routes(readiness: Readiness) -> RouteTable:
    """Return the routes of the probes."""
    return {b"/livez": {b"GET": Page(readiness.livez)}, b"/readyz": {b"GET": Page(readiness.readyz)}}


def pipeline_routes(served: Iterable[Served], options: ServeOptions) -> RouteTable:
    """Return the routes of pipelines. Raises SetupError where one's codecs cannot be made."""
    return {
        f"/v1/pipelines/{each.plan.name}/predict".encode(): {
            b"POST": each.endpoint(options.array_max, options.body_bytes_max, arrow=options.arrow)
        }
        for each in served
    }


def model_routes(routes: RouteTable, options: ServeOptions, release: str, readiness: Readiness) -> RouteTable:
    """Return the routes of the Open Inference Protocol, where a pipeline is a model. release: its only version."""
    usual = [route for methods in routes.values() for route in methods.values() if isinstance(route, Endpoint)]
    endpoints = [rest_endpoint(each, release, options.array_max, options.body_bytes_max) for each in usual]
    return oip_routes(endpoints, readiness.readyz, with_keys=options.asks_callers)


def limited(routes: Mapping[bytes, Mapping[bytes, CallEndpoint | Page]], limiter: Limiter) -> RouteTable:
    """Return the same routes, each within what its pipeline lets all callers have together."""
    return {
        path: {method: route if isinstance(route, Page) else limiter.within(route) for method, route in methods.items()}
        for path, methods in routes.items()
    }


def stream_routes(endpoints: Mapping[bytes, CallEndpoint]) -> RouteTable:
    """Return the routes of streams, each with its endpoint by its path."""
    return {path: {b"POST": endpoint} for path, endpoint in endpoints.items()}
