"""The read rule of stream views by brute force, as docs/reference/pipeline.md tells it: no array, no tile, no state."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

NS_PER_S = 10**9


@dataclass(frozen=True)
class Happened:
    """One event. cents: the amount, a whole number of them."""

    at_ns: int
    event_id: int | str | None
    entity: int | str
    cents: int
    channel: str

    @property
    def order(self) -> tuple[int, Any]:
        """By what events are in order: time, then id; a text by its bytes."""
        return self.at_ns, self.event_id.encode() if isinstance(self.event_id, str) else self.event_id


@dataclass(frozen=True)
class Asked:
    """One column. length_s: None for a lifetime. where: of the event's amount in cents and its channel."""

    kind: str
    length_s: int | None
    delay_s: int = 0
    where: Callable[[Happened], bool] | None = None
    include_current: bool = False
    of_channel: bool = False


def answer(asked: Asked, events: Sequence[Happened], now: Happened) -> float | int | None:
    """Return a column's value for one request, from all events that have come; None where the default answers."""
    window = [event for event in events if event.entity == now.entity and is_in_window(asked, event, now)]
    window.sort(key=lambda event: event.order)
    if asked.include_current:
        window.append(now)
    counted = [event for event in window if asked.where is None or asked.where(event)]
    return VALUES[asked.kind](counted, asked, now)


def is_in_window(asked: Asked, event: Happened, now: Happened) -> bool:
    """Say whether an event is within a window: floor(now - W, hop) <= t, and right before now, by time and id."""
    end = Happened(now.at_ns - asked.delay_s * NS_PER_S, now.event_id, now.entity, 0, "")
    is_before = event.at_ns < end.at_ns if now.event_id is None else event.order < end.order
    if asked.length_s is None:
        return is_before
    hop_ns = max(1, math.ceil(asked.length_s / 60)) * NS_PER_S
    begin_ns = (end.at_ns - asked.length_s * NS_PER_S) // hop_ns * hop_ns
    return begin_ns <= event.at_ns and is_before


def _sum(counted: list[Happened], asked: Asked, now: Happened) -> float | None:
    return sum(event.cents for event in counted) / 100 if counted else None


def _mean(counted: list[Happened], asked: Asked, now: Happened) -> float | None:
    return float(Fraction(sum(event.cents for event in counted), 100 * len(counted))) if counted else None


def _stddev(counted: list[Happened], asked: Asked, now: Happened) -> float | None:
    return statistics.stdev(Fraction(event.cents, 100) for event in counted) if len(counted) > 1 else None


def _since(counted: list[Happened], asked: Asked, now: Happened) -> float | None:
    return (now.at_ns - counted[-1].at_ns) / NS_PER_S if counted else None


def _distinct(counted: list[Happened], asked: Asked, now: Happened) -> int | None:
    if asked.of_channel:
        return len({event.channel for event in counted} - {""}) or None  # an empty text is a null
    return len({event.cents for event in counted}) or None


VALUES: dict[str, Callable[[list[Happened], Asked, Happened], Any]] = {
    "count": lambda counted, asked, now: len(counted) or None,
    "sum": _sum,
    "mean": _mean,
    "stddev": _stddev,
    "min": lambda counted, asked, now: min(event.cents for event in counted) / 100 if counted else None,
    "max": lambda counted, asked, now: max(event.cents for event in counted) / 100 if counted else None,
    "last": lambda counted, asked, now: counted[-1].cents / 100 if counted else None,
    "first": lambda counted, asked, now: counted[0].cents / 100 if counted else None,
    "since_last": _since,
    "distinct": _distinct,
}
EXACT = ("count", "sum", "min", "max", "last", "first", "distinct")
