"""Repetitions as a share of the calls, and the time that a call usually takes."""

from __future__ import annotations

from typing import Final

SAVED_MAX: Final = 10.0
"""Repetitions that calls before can have saved up, and that a client begins with."""
KEPT: Final = 256
EVERY: Final = 64
"""The last `KEPT` times are kept, and their p95 looked for every `EVERY` calls: a sort of 256 costs 10 µs."""


class Share:
    """A bucket of tokens: each call puts in its share, each repetition takes a whole one. saved: at the beginning."""

    def __init__(self, share: float, saved: float = SAVED_MAX) -> None:
        self._share = share
        self._saved = saved if share else 0.0

    def earn(self) -> None:
        """Note a call."""
        self._saved = min(self._saved + self._share, SAVED_MAX)

    def take(self) -> bool:
        """Return whether a call may be repeated; that is then paid for."""
        if self._saved < 1 - 1e-9:  # 20 shares of 0.05 are not quite 1
            return False
        self._saved -= 1
        return True


class UsualTime:
    """The p95 of the last calls. Nanoseconds; None until there are `EVERY`."""

    def __init__(self) -> None:
        self._times_ns: list[int] = []
        self._count = 0
        self.p95_ns: int | None = None

    def note(self, took_ns: int) -> None:
        """Note how long a call took."""
        if len(self._times_ns) < KEPT:
            self._times_ns.append(took_ns)
        else:
            self._times_ns[self._count % KEPT] = took_ns
        self._count += 1
        if self._count % EVERY == 0:
            self.p95_ns = sorted(self._times_ns)[len(self._times_ns) * 95 // 100]
