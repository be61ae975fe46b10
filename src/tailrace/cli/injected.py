"""Where traces are sent, as the environment says: a platform sets its variables for all that it runs.

So what cannot be done with them is warned of, and the server starts. What the command line asks for has to be.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Final

import typer

from tailrace.errors import SetupError

_HEADERS: Final = "OTEL_EXPORTER_OTLP_HEADERS"
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")


def traces_to(context: typer.Context, value: str | None) -> str | None:
    """Return where traces are sent; as the environment names it, only where they can be, and are wanted."""
    source = context.get_parameter_source("traces")
    if value is None or source is None or source.name != "ENVIRONMENT" or context.resilient_parsing:
        return value
    if _are_off(os.environ):
        return None
    headers = context.params.get("traces_headers") or os.environ.get(_HEADERS, "")
    try:
        _check(value, headers, os.environ)
    except SetupError as error:
        print(f"warning: no traces are sent: {error.what}; {error.next}", file=sys.stderr)
        return None
    return value


def _are_off(environment: Mapping[str, str]) -> bool:
    """Return whether the standard's variables say that nothing is traced, or not by its protocol."""
    exporters = environment.get("OTEL_TRACES_EXPORTER") or "otlp"
    is_off = environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    return is_off or "otlp" not in {each.strip() for each in exporters.split(",")}


def _check(url: str, headers: str, environment: Mapping[str, str]) -> None:
    """Raise SetupError where traces cannot be sent."""
    from tailrace.monitor.tracing.endpoint import TraceEndpoint
    from tailrace.server.companions import require_otlp

    if next(filter(None, map(environment.get, _PROTOCOLS)), "") == "grpc":
        raise SetupError(f"{url} is for gRPC, as {_PROTOCOLS[1]} says", next="give --traces http://HOST:4318")
    TraceEndpoint.of(url, headers)
    require_otlp()
