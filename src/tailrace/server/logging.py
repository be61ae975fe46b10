"""The log: a line on start, ready, stop and fault, to stderr. None per request.

Writing it never raises and never waits: a log that nobody reads costs its lines, not answers.
"""

from __future__ import annotations

import os
import select
import sys
import warnings
from typing import Any, Final, TextIO

import msgspec
import structlog

from tailrace.server.log_lines import LINES

STDERR: Final = 2


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
            LINES.keep,
            renderer,
        ],
        logger_factory=lambda *_: _LINES,
        cache_logger_on_first_use=False,
    )


def log_warnings() -> None:
    """Have what a library warns of be a line of the log: between lines of JSON a plain text is read by no collector."""
    warnings.showwarning = _log_warning


def logger(**context: object) -> Any:
    """Return a logger that adds the context to each of its lines."""
    return structlog.get_logger(**context)


def tell(text: str) -> None:
    """Write a line to stderr, or as much of it as is taken at once: its reader may be gone, or stopped."""
    rest = f"{text}\n".encode(errors="backslashreplace")
    ready = select.poll()
    ready.register(STDERR, select.POLLOUT)
    try:
        while rest and ready.poll(0):
            rest = rest[os.write(STDERR, rest[: select.PIPE_BUF]) :]
    except OSError:
        return


def _log_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    structlog.get_logger().warning(
        "a library warns", kind=category.__name__, text=str(message), where=f"{filename}:{lineno}"
    )


class _Lines:
    """What structlog writes to."""

    def msg(self, line: str) -> None:
        """Write a line."""
        tell(line)

    debug = info = warning = error = critical = msg


_LINES: Final = _Lines()


def _encode(event: dict[str, Any], **_: object) -> str:
    """Return one line of JSON."""
    return msgspec.json.encode(event, enc_hook=str).decode()
