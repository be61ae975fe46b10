"""The declaration of how a pipeline is watched for drift. No I/O; computed by the observer (monitor/drift/)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tailrace.deadline import NS_PER_S, parse_duration

SEASONS: Final = {"day": 24, "week": 168}
"""The hours after which traffic looks the same again."""
WINDOW_NS_MIN: Final = NS_PER_S
WINDOW_NS_MAX: Final = 3_600 * NS_PER_S
ROWS_MIN: Final = 500
"""A mean that is off by 0.2 standard deviations is 4 standard errors off at 400 rows."""
CYCLES_MAX: Final = 100
VOTES_MAX: Final = 100


@dataclass(frozen=True, slots=True, init=False)
class Drift:
    """How a pipeline's features, scores and decisions are held against what its model was packaged on.

    window: how long one comparison gathers rows, 1s to 1h. rows_min: a window with fewer goes on until it has them.
    season: "day" or "week": each hour of it has a baseline of its own, learned from the traffic of so many `cycles`; or
        None: every window is held against the reference profile at once.
    alarm: (3, 5): so many of the last so many windows must speak before there is an alarm.
    false_discoveries: of the comparisons that speak in a window, the share that may be chance.
    Raises ValueError for what is out of range.
    """

    window_ns: int
    rows_min: int
    season: str | None
    cycles: int
    alarm: tuple[int, int]
    false_discoveries: float

    def __init__(
        self,
        window: str = "5m",
        *,
        rows_min: int = ROWS_MIN,
        season: str | None = "day",
        cycles: int = 3,
        alarm: tuple[int, int] = (3, 5),
        false_discoveries: float = 0.01,
    ) -> None:
        window_ns = parse_duration(window)
        if not WINDOW_NS_MIN <= window_ns <= WINDOW_NS_MAX:
            raise ValueError(f"Drift(window={window!r}): choose from 1s to 1h")
        if season is not None and season not in SEASONS:
            raise ValueError(f"Drift(season={season!r}): choose 'day', 'week' or None")
        for name, number, least, most in (("rows_min", rows_min, 30, 10**9), ("cycles", cycles, 1, CYCLES_MAX)):
            if type(number) is not int or not least <= number <= most:
                raise ValueError(f"Drift({name}={number!r}): choose from {least} to {most:,}")
        if not _is_vote(alarm):
            raise ValueError(f"Drift(alarm={alarm!r}): write (3, 5) for 3 of the last 5 windows, {VOTES_MAX} at most")
        if not isinstance(false_discoveries, float) or not 0 < false_discoveries <= 0.5:
            raise ValueError(f"Drift(false_discoveries={false_discoveries!r}): choose above 0 and up to 0.5")
        given = {"window_ns": window_ns, "rows_min": rows_min, "season": season, "cycles": cycles,
                 "alarm": tuple(alarm), "false_discoveries": false_discoveries}  # fmt: skip
        for name, value in given.items():
            object.__setattr__(self, name, value)

    @property
    def slots(self) -> int:
        """How many baselines there are: one an hour of the season, or one."""
        return 1 if self.season is None else SEASONS[self.season]

    @property
    def windows_to_learn(self) -> int:
        """How many windows a baseline is made of before others are held against it."""
        per_slot = 3_600 * NS_PER_S // self.window_ns if self.season else 12
        return max(per_slot * (self.cycles if self.season else 1), 2)


def _is_vote(alarm: object) -> bool:
    """Return whether it is (needed, of) with 1 <= needed <= of <= 100."""
    if not isinstance(alarm, tuple) or len(alarm) != 2 or not all(type(each) is int for each in alarm):
        return False
    return bool(1 <= alarm[0] <= alarm[1] <= VOTES_MAX)


DEFAULT_DRIFT: Final = Drift()
