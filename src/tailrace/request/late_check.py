"""The declaration of what is checked of requests once they are answered. No I/O."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class LateCheck:
    """A check that costs more than a call has time for: it is made after the answer, counted, and logged.

    name: the check's own, as metrics and the log call it. holds: takes a request and says whether it is as it should
    be; it runs in another process, so that whatever it costs, no call waits for it.
    Raises ValueError for a name that is none, TypeError for what is no function.
    """

    name: str
    holds: Callable[[Any], bool]

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ValueError(f"LateCheck: {self.name!r} is no name")
        if not callable(self.holds):
            raise TypeError(f"LateCheck {self.name!r}: {self.holds!r} is no function of a request")
