"""The last lines of the log, as the console shows them: a process's own, and those that its children tell it.

A child sends its lines with its heartbeats. The log itself waits for none of this: a line goes to stderr whether it is
kept here or not, and what is kept is bounded.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, MutableMapping
from threading import RLock
from typing import Any, Final

import msgspec

LINES_MAX: Final = 300
AGE_S: Final = 600.0
TOLD_MAX: Final = 20
"""Lines that a child sends with a heartbeat, the newest; it says how many more there were."""
TEXT_MAX: Final = 500
TRACE_MAX: Final = 700
"""Characters of a line, and of the end of a traceback."""
_ELSEWHERE: Final = frozenset({"event", "level", "timestamp", "pid", "exception"})


class LogLine(msgspec.Struct, frozen=True):
    """One line. at_s: since the epoch. who: wrote it, "" for the supervisor. text: its event, and its facts."""

    at_s: float
    level: str
    who: str
    text: str


class LogLines:
    """The lines of the last ten minutes, so many at most. Lines may come from any thread. who: writes them here."""

    def __init__(self, who: str = "") -> None:
        self.who = who
        self._lines: deque[tuple[float, LogLine]] = deque(maxlen=LINES_MAX)
        self._heard = 0
        self._told = 0
        self._lock = RLock()  # a line may come while one is kept, of what the garbage collector ends

    @property
    def heard(self) -> int:
        """How many lines there have been."""
        return self._heard

    def keep(self, logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """Keep a line of the log, and hand it on as it is: a processor of structlog. A line that cannot be is not."""
        try:
            text = text_of(event)
        except Exception:  # of somebody's str(); the log has to go on
            text = str(event.get("event"))[:TEXT_MAX]
        self.hear([LogLine(round(time.time(), 3), str(event.get("level", method)), self.who, text)])
        return event

    def hear(self, lines: Iterable[LogLine]) -> None:
        """Keep lines."""
        now_s = time.monotonic()
        with self._lock:
            for line in lines:
                self._lines.append((now_s, line))
                self._heard += 1

    def since(self, heard: int) -> tuple[LogLine, ...]:
        """Return the lines that have come after so many, those of the last ten minutes."""
        now_s = time.monotonic()
        with self._lock:
            held, new = list(self._lines), max(self._heard - heard, 0)
        wanted = held[max(len(held) - new, 0) :]
        return tuple(line for heard_s, line in wanted if now_s - heard_s <= AGE_S)

    def take(self) -> tuple[LogLine, ...]:
        """Return what has come since the last time, `TOLD_MAX` lines at most: those of a child, to be sent."""
        new = self._heard - self._told
        found = self.since(self._heard - min(new, TOLD_MAX))
        self._told += new
        if new > len(found):
            left = LogLine(round(time.time(), 3), "info", self.who, f"{new - len(found)} more lines, left out here")
            found = (left, *found)
        return found


LINES: Final = LogLines()
"""Of this process."""


def text_of(event: MutableMapping[str, Any]) -> str:
    """Return an event with its facts, `name=value`, and the end of its traceback."""
    facts = [f"{name}={_said(value)}" for name, value in event.items() if name not in _ELSEWHERE and value is not None]
    text = " ".join([str(event.get("event", "")), *facts])
    text = text if len(text) <= TEXT_MAX else text[: TEXT_MAX - 1] + "…"
    trace = str(event.get("exception") or "")
    return f"{text}\n{trace[-TRACE_MAX:]}" if trace else text


def _said(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value, enc_hook=str).decode()
