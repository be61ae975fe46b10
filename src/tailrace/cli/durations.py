"""Durations and times on the command line."""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import UTC, datetime

from tailrace.deadline import parse_duration
from tailrace.errors import SetupError


def duration_ns(text: str, flag: str) -> int:
    """Return a flag's nanoseconds. Raises SetupError for what is no duration."""
    try:
        return parse_duration(text)
    except ValueError as error:
        raise SetupError(str(error), where=flag, next="write it as in 90s, 10m or 2d") from None


def time_ns_of(text: str | None, flag: str) -> int | None:
    """Return the time that a flag names, in ns since the epoch: an ISO time, in UTC without a zone, or so long ago.

    Raises SetupError for what is neither.
    """
    if text is None:
        return None
    with suppress(ValueError):
        moment = datetime.fromisoformat(text)
        return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1e6) * 1_000
    try:
        return time.time_ns() - duration_ns(text, flag)
    except SetupError:
        raise SetupError(f"{text!r} is no time", where=flag,
                         next="write 10m, for ten minutes ago, or 2026-11-28T09:30, in UTC") from None  # fmt: skip
