"""Aggregates of a stream view: how they are declared, and what each is computed from.

An aggregate is computed as Chronon's are (prepare, update, merge, finalize). Its lanes (lanes.py) do the first three,
an update being a merge with the entry of one event:

    event --prepare--> entry --merge--> entry of a window --finalize--> value
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tailrace.features.distinct import DistinctLane
from tailrace.features.lanes import NO_TIME_NS, Columns, CountLane, ExtremeLane, Lane, MomentLane, MomentsLane, SumLane

LIFETIME: Final = "lifetime"
"""A window without a beginning."""
DECIMALS_MAX: Final = 9


@dataclass(frozen=True, slots=True)
class Aggregate:
    """One feature of a stream view, as it is declared: `tr.sum("amount", window="1d")`. Made by the functions below.

    value: the expression that is aggregated, "" where there is none. window: a duration, or "lifetime". where: an
    expression; only events for which it is true count. delay: how far back the window ends. include_current: whether
    the event that is scored counts itself. default: answers where no event counts. decimals: see `sum_`.
    """

    kind: str
    value: str
    window: str
    where: str | None
    delay: str | None
    include_current: bool
    default: Any
    decimals: int | None = None


@dataclass(frozen=True, slots=True)
class AggregateKind:
    """How one kind of aggregate is computed.

    lanes: given the decimals, the lanes that it needs. finalize: given the columns of these lanes for each window, the
    decimals, and the time in ns that each window looks back from, returns the values, and where there is none.
    takes_any: whether its values may be of any type, and it takes their hash.
    of_nothing: the value that it gives there in any case; None where it may be any.
    """

    lanes: Callable[[int | None], tuple[Lane, ...]]
    finalize: Callable[[Sequence[Columns], int | None, NDArray[np.int64]], tuple[NDArray[Any], NDArray[np.bool_]]]
    dtype: str = "<f8"
    takes_value: bool = True
    takes_any: bool = False
    of_nothing: float | None = None


def _unit(decimals: int | None) -> float:
    return float(10 ** (decimals or 0))


def _count(lanes: Sequence[Columns], decimals: int | None, now_ns: NDArray[np.int64]) -> Any:
    ((counts,),) = lanes
    return counts, counts == 0


def _sum(lanes: Sequence[Columns], decimals: int | None, now_ns: NDArray[np.int64]) -> Any:
    (totals,), (counts,) = lanes
    return totals / _unit(decimals), counts == 0


def _mean(lanes: Sequence[Columns], decimals: int | None, now_ns: NDArray[np.int64]) -> Any:
    (totals,), (counts,) = lanes
    return totals / (_unit(decimals) * np.maximum(counts, 1)), counts == 0


def _extreme(lanes: Sequence[Columns], decimals: int | None, now_ns: NDArray[np.int64]) -> Any:
    ((values,),) = lanes
    return values, np.isinf(values)


def _stddev(lanes: Sequence[Columns], decimals: int | None, now_ns: NDArray[np.int64]) -> Any:
    ((counts, _, squares),) = lanes
    return np.sqrt(squares / np.maximum(counts - 1, 1)), counts < 2


def _value(lanes: Sequence[Columns], decimals: int | None, now_ns: NDArray[np.int64]) -> Any:
    ((times, values),) = lanes
    return values, times == NO_TIME_NS


def _since(lanes: Sequence[Columns], decimals: int | None, now_ns: NDArray[np.int64]) -> Any:
    ((times, _),) = lanes
    is_never = times == NO_TIME_NS
    return (now_ns - np.where(is_never, now_ns, times)) / 1e9, is_never


KINDS: Final[Mapping[str, AggregateKind]] = {
    "count": AggregateKind(lambda _: (CountLane(),), _count, "<i8", takes_value=False, of_nothing=0),
    "sum": AggregateKind(lambda decimals: (SumLane(decimals), CountLane()), _sum, of_nothing=0.0),
    "mean": AggregateKind(lambda decimals: (SumLane(decimals), CountLane()), _mean, of_nothing=0.0),
    "min": AggregateKind(lambda _: (ExtremeLane(is_max=False),), _extreme),
    "max": AggregateKind(lambda _: (ExtremeLane(is_max=True),), _extreme),
    "stddev": AggregateKind(lambda _: (MomentsLane(),), _stddev),
    "last": AggregateKind(lambda _: (MomentLane(is_latest=True),), _value),
    "first": AggregateKind(lambda _: (MomentLane(is_latest=False),), _value),
    "since_last": AggregateKind(lambda _: (MomentLane(is_latest=True),), _since, takes_value=False),
    "distinct": AggregateKind(lambda _: (DistinctLane(),), _count, "<i8", takes_any=True),
}


def count(
    *, window: str, where: str | None = None, delay: str | None = None, include_current: bool = False, default: int = 0
) -> Any:
    """Count the events of a window: `tx_count_5m: int = tr.count(window="5m")`.

    window: a duration from "1s" to "365d", or "lifetime"; it begins at a multiple of a sixtieth of it. where: an
    expression over the event's fields, `"amount > 100"`: only events for which it is true count. delay: how far back
    the window ends, for what is known late. include_current: whether the event that is scored counts itself.
    default: answers where no event counts. These mean the same for every aggregate.
    """
    return Aggregate("count", "", window, where, delay, include_current, default)


def sum_(
    value: str, *, window: str, where: str | None = None, delay: str | None = None, include_current: bool = False,
    default: float = 0.0, decimals: int | None = None,
) -> Any:  # fmt: skip
    """Add up the values of a window: `amount_1d: float = tr.sum("amount", window="1d", decimals=2)`.

    value: a field, or an expression over fields. decimals: of money, say: the values are rounded to so many, and the
    sum is exact; without, it is as exact as a sum of floats. The rest is as for `count`.
    """
    return Aggregate("sum", value, window, where, delay, include_current, default, decimals)


def mean(
    value: str, *, window: str, where: str | None = None, delay: str | None = None, include_current: bool = False,
    default: float = 0.0, decimals: int | None = None,
) -> Any:  # fmt: skip
    """Take the mean of the values of a window; see `sum_`."""
    return Aggregate("mean", value, window, where, delay, include_current, default, decimals)


def min_(
    value: str, *, window: str, where: str | None = None, delay: str | None = None, include_current: bool = False,
    default: float = 0.0,
) -> Any:  # fmt: skip
    """Take the least value of a window; see `count`."""
    return Aggregate("min", value, window, where, delay, include_current, default)


def max_(
    value: str, *, window: str, where: str | None = None, delay: str | None = None, include_current: bool = False,
    default: float = 0.0,
) -> Any:  # fmt: skip
    """Take the greatest value of a window; see `count`."""
    return Aggregate("max", value, window, where, delay, include_current, default)


def stddev(
    value: str, *, window: str, where: str | None = None, delay: str | None = None, include_current: bool = False,
    default: float = 0.0,
) -> Any:  # fmt: skip
    """Take the sample's standard deviation (by n - 1) of a window; of fewer than two values the default."""
    return Aggregate("stddev", value, window, where, delay, include_current, default)


def last(
    value: str, *, window: str, where: str | None = None, delay: str | None = None, include_current: bool = False,
    default: float = 0.0,
) -> Any:  # fmt: skip
    """Take the latest value of a window; see `count`."""
    return Aggregate("last", value, window, where, delay, include_current, default)


def first(
    value: str, *, window: str, where: str | None = None, delay: str | None = None, include_current: bool = False,
    default: float = 0.0,
) -> Any:  # fmt: skip
    """Take the earliest value of a window; see `count`."""
    return Aggregate("first", value, window, where, delay, include_current, default)


def since_last(
    *, window: str = LIFETIME, where: str | None = None, delay: str | None = None, default: float = -1.0
) -> Any:
    """Take the seconds since the latest event of a window; see `count`."""
    return Aggregate("since_last", "", window, where, delay, include_current=False, default=default)


def distinct(
    value: str, *, window: str, where: str | None = None, delay: str | None = None, include_current: bool = False,
    default: int = 0,
) -> Any:  # fmt: skip
    """Count the distinct values of a window: `terminals_1d: int = tr.distinct("terminal_id", window="1d")`.

    value: of any type: texts, times and numbers; an empty text is a null. Exact as long as an entity has up to 1,024
    values in the longest window of the same value and where. Of more it is an estimate, from a sample of 512 to 1,024
    of them, with a relative standard error of 3.75% for that window; for a shorter one, which has a share p of these
    values, of 3.75% / sqrt(p). See distinct.py. The rest is as for `count`.
    """
    return Aggregate("distinct", value, window, where, delay, include_current, default)
