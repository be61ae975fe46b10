"""The log: a line on start, ready, stop and fault, to stderr. None per request."""

from __future__ import annotations

import sys
from typing import Any

import msgspec
import structlog


def configure_logging() -> None:
    """Write key-value lines where stderr is a terminal, JSON lines where it is not."""
    as_json = not sys.stderr.isatty()
    renderer: Any = structlog.processors.JSONRenderer(_encode) if as_json else structlog.dev.ConsoleRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=as_json),
            structlog.processors.format_exc_info,
            renderer,
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


def logger(**context: object) -> Any:
    """Return a logger that adds the context to each of its lines."""
    return structlog.get_logger(**context)


def _encode(event: dict[str, Any], **_: object) -> str:
    """Return one line of JSON."""
    return msgspec.json.encode(event, enc_hook=str).decode()
