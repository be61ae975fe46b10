"""Warnings of what may come again and again, a thousand times a second perhaps: each is logged once in a while."""

from __future__ import annotations

import time
from typing import Any, Final

EVERY_S: Final = 60.0


class Seldom:
    """Logs each event at most once in so many seconds. log: of structlog. Events are few: they are not forgotten."""

    def __init__(self, log: Any, every_s: float = EVERY_S) -> None:
        self._log = log
        self._every_s = every_s
        self._next_s: dict[str, float] = {}

    def warn(self, event: str, **facts: Any) -> bool:
        """Log a warning, unless the same one was logged a moment ago; return whether it was."""
        now_s = time.monotonic()
        if now_s < self._next_s.get(event, now_s):
            return False
        self._next_s[event] = now_s + self._every_s
        self._log.warning(event, **facts)
        return True
