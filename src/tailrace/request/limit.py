"""What callers may have, as it is declared: of a pipeline in its file, of a key beside it. A token is a request."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from tailrace.deadline import NS_PER_S

RATE_PATTERN: Final = r"^[1-9][0-9]{0,8}/(s|m|h|d)\Z"
BURST_MAX: Final = 1_000_000_000
CONCURRENT_MAX: Final = 1_000_000
INTERVAL_NS_MIN: Final = 1_000
"""A million requests a second."""
_UNITS_NS: Final = {"s": NS_PER_S, "m": 60 * NS_PER_S, "h": 3_600 * NS_PER_S, "d": 86_400 * NS_PER_S}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """How much may be asked. rate: requests over time, "100/s", "6000/m", "10/h" or "5/d"; None for any.

    burst: how many may come at once, after a time in which few came; None for as many as the rate names. concurrent:
    calls that may be in flight at once; None for any. Raises ValueError for what is no rate, or out of range.
    """

    rate: str | None = None
    burst: int | None = None
    concurrent: int | None = None

    def __post_init__(self) -> None:
        if self.rate is not None:
            if not isinstance(self.rate, str) or not re.match(RATE_PATTERN, self.rate):
                raise ValueError(f"{self.rate!r} is no rate; write a number and one of s, m, h, d, as in '100/s'")
            if self.interval_ns < INTERVAL_NS_MIN:
                raise ValueError(f"{self.rate!r} is over a million a second: leave it out")
        elif self.burst is not None:
            raise ValueError("a burst needs a rate, as in rate='100/s'")
        for name, value, most in (("burst", self.burst, BURST_MAX), ("concurrent", self.concurrent, CONCURRENT_MAX)):
            if value is not None and (type(value) is not int or not 1 <= value <= most):
                raise ValueError(f"{name}={value!r} is out of range; choose from 1 to {most:,}")

    @property
    def is_any(self) -> bool:
        """Whether nothing is limited."""
        return self.rate is None and self.concurrent is None

    @property
    def interval_ns(self) -> int:
        """How long it takes until there is one token more; 0 without a rate."""
        count, unit_ns = self._parts
        return -(-unit_ns // count) if count else 0

    @property
    def tokens_max(self) -> int:
        """How many tokens there are after a long time in which none was taken; 0 without a rate."""
        return self.burst or self._parts[0]

    @property
    def window(self) -> tuple[int, int]:
        """The fewest whole seconds in which the rate allows a burst, and how many requests it allows in them."""
        count, unit_ns = self._parts
        seconds = -(-self.tokens_max * unit_ns // (count * NS_PER_S))
        return seconds, seconds * NS_PER_S * count // unit_ns

    @property
    def _parts(self) -> tuple[int, int]:
        """How many requests in how many ns; zeros without a rate."""
        if self.rate is None:
            return 0, 0
        count, _, unit = self.rate.partition("/")
        return int(count), _UNITS_NS[unit]


NO_LIMIT: Final = Limit()
