"""Durations on the command line."""

from __future__ import annotations

from tailrace.deadline import parse_duration
from tailrace.errors import SetupError


def duration_ns(text: str, flag: str) -> int:
    """Return a flag's nanoseconds. Raises SetupError for what is no duration."""
    try:
        return parse_duration(text)
    except ValueError as error:
        raise SetupError(str(error), where=flag, next="write it as in 90s, 10m or 2d") from None
