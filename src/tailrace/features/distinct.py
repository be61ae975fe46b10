"""How many distinct values a window has: which values an entity's older events had is kept in a ledger.

Events that are kept apart tell their values themselves. Of older ones a ledger keeps each value once, as a hash, with
when it was last seen: a window has the values seen since it began. A ledger holds up to `VALUES_MAX` values. Of more it
keeps a sample that adapts to their number, after Wegman, as Flajolet analyses it in "On adaptive sampling" (Computing
34, 1990): those whose hash begins with `depth` zeros stand for 2^depth values each, and whenever there are too many the
least depth is raised by one, which drops about half of those that have it. A value has a depth of its own, and enters
with none: after a flood of values that has left the windows, counts are exact again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from tailrace.deadline import NS_PER_S
from tailrace.features.expressions import Expression, Fields
from tailrace.features.keys import entity_checks
from tailrace.features.lanes import Columns
from tailrace.features.ranges import Places

VALUES_MAX: Final = 1_024
"""Distinct values that are kept of one entity's older events; counts of no more are exact."""
ERROR: Final = 1.2 / VALUES_MAX**0.5
"""The relative standard error of a count of more, 3.75%; of a window with a share p of the values, this / sqrt(p)."""
_HASH_BITS: Final = 32
_DEPTH_NONE: Final = 255


@dataclass(frozen=True, slots=True)
class DistinctLane:
    """The hash of each event's value, 0 where none counts. What is merged has none: a ledger has it."""

    fields: tuple[str, ...] = field(default=("<u4",), init=False)

    def prepare(self, values: NDArray[Any], counted: NDArray[np.bool_], times: NDArray[np.int64]) -> Columns:
        """Take the hash of each event that counts."""
        return (np.where(counted, values, 0.0).astype(np.uint32),)

    def merge(self, columns: Columns, begins: Places, ends: Places) -> Columns:
        """Return entries of nothing."""
        return (np.zeros(len(begins), np.uint32),)


class Ledger(msgspec.Struct, eq=False):
    """The values that some entities' older events had, each entity's side by side, in the order of their times.

    begins, ends: where each entity's are. at: when each was last seen, int64 ns, in whole seconds, as windows begin.
    hashes: uint32, not 0. depths: uint8; a value stands for 2^depth values.
    """

    ids: ClassVar[None] = None
    """Of the events: none is kept."""

    begins: Places
    ends: Places
    at: NDArray[np.int64]
    hashes: NDArray[np.uint32]
    depths: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.at)

    def extended(
        self, rows: NDArray[np.intp], at: NDArray[np.int64], hashes: NDArray[np.uint32], oldest_ns: NDArray[np.int64]
    ) -> Ledger:
        """Return the ledger with the values of more events.

        rows: the entity of each. hashes: 0 for none. oldest_ns: of each entity; what was seen before it goes.
        """
        entities = np.repeat(np.arange(len(self.begins)), self.ends - self.begins)
        new = np.flatnonzero(hashes)
        all_rows = np.concatenate((entities, rows[new]))
        all_at = np.concatenate((self.at, at[new] // NS_PER_S * NS_PER_S))
        all_hashes = np.concatenate((self.hashes, hashes[new]))
        depths = np.concatenate((self.depths, np.zeros(len(new), np.uint8)))
        order = np.lexsort((all_at, all_hashes, all_rows))  # stable: of one time the new one is last
        is_last = np.ones(len(order), np.bool_)
        rows_in_order, hashes_in_order = all_rows[order], all_hashes[order]
        is_last[:-1] = (rows_in_order[1:] != rows_in_order[:-1]) | (hashes_in_order[1:] != hashes_in_order[:-1])
        kept = order[is_last]
        kept = kept[all_at[kept] >= oldest_ns[all_rows[kept]]]
        kept, kept_depths = _thinned(kept, all_rows[kept], all_hashes[kept], depths[kept], len(self.begins))
        order = np.lexsort((all_at[kept], all_rows[kept]))
        kept = kept[order]
        bounds = np.concatenate(([0], np.cumsum(np.bincount(all_rows[kept], minlength=len(self.begins)))))
        return Ledger(bounds[:-1], bounds[1:], all_at[kept], all_hashes[kept], kept_depths[order])


def _thinned(
    kept: NDArray[np.intp], rows: NDArray[np.intp], hashes: NDArray[np.uint32], depths: NDArray[np.uint8], count: int
) -> tuple[NDArray[np.intp], NDArray[np.uint8]]:
    """Return what is left of each entity's values once there are no more than `VALUES_MAX`, and their depths."""
    while np.any(is_over := np.bincount(rows, minlength=count) > VALUES_MAX):
        least = np.full(count, _DEPTH_NONE, np.uint8)
        np.minimum.at(least, rows, depths)
        is_raised = is_over[rows] & (depths == least[rows])
        depths = depths + is_raised.astype(np.uint8)
        begins_with_zeros = hashes >> (_HASH_BITS - np.maximum(depths, 1)).astype(np.uint32) == 0
        left = np.flatnonzero(~is_raised | begins_with_zeros)
        kept, rows, hashes, depths = kept[left], rows[left], hashes[left], depths[left]
    return kept, depths


def count_distinct(
    groups: NDArray[np.intp], hashes: NDArray[np.uint32], depths: NDArray[np.uint8], count: int
) -> NDArray[np.int64]:
    """Return how many distinct values each of `count` groups has. Of a hash that a group has twice the first counts."""
    chosen = np.flatnonzero(hashes)
    keys = groups[chosen].astype(np.uint64) << np.uint64(_HASH_BITS) | hashes[chosen]
    found, firsts = np.unique(keys, return_index=True)
    weights = np.ldexp(1.0, depths[chosen][firsts].astype(np.int32))
    return np.bincount((found >> np.uint64(_HASH_BITS)).astype(np.intp), weights, count).astype(np.int64)


def distinct_of_ranges(
    hashes: NDArray[np.uint32], begins: Places, ends: Places, own: NDArray[np.uint32] | None = None
) -> NDArray[np.int64]:
    """Return how many distinct values each range of events has, exactly, however much ranges overlap.

    own: a further value of each range. A value counts where it is first seen in a range: where the same value came last
    before the range's begin. These are counted in blocks of 1, 2, 4, … events, which a range is put together of, as
    `ranges.reduce_by_halves` does it: in each block they are sorted by when the same value came last.
    """
    chosen = np.flatnonzero(hashes)
    before = np.concatenate((np.zeros(1, np.intp), np.cumsum(hashes != 0)))
    values, first, low, high = hashes[chosen], before[begins], before[begins], before[ends]
    width = len(values) + 1
    order = np.argsort(values, kind="stable")
    last_seen = np.zeros(len(values), np.int64)  # one more than its place, 0 for never
    is_again = values[order][1:] == values[order][:-1]
    last_seen[order[1:][is_again]] = order[:-1][is_again] + 1
    counts = np.zeros(len(begins), np.int64)
    if own is not None:
        keys = values[order].astype(np.uint64) << np.uint64(_HASH_BITS) | order.astype(np.uint64)
        wanted = own.astype(np.uint64) << np.uint64(_HASH_BITS)
        found = np.searchsorted(keys, wanted | high.astype(np.uint64)) > np.searchsorted(
            keys, wanted | first.astype(np.uint64)
        )
        counts += (own != 0) & ~found
    size = 1
    while np.any(low < high):
        keys = np.sort(np.arange(len(values)) // size * width + last_seen)
        for bound, step in ((low, 0), (high, 1)):
            odd = np.flatnonzero((low < high) & (bound & 1 == 1))
            block = bound[odd] - step
            counts[odd] += np.searchsorted(keys, block * width + first[odd] + 1) - block * size
            bound[odd] += 1 - 2 * step
        low, high, size = low >> 1, high >> 1, size * 2
    return counts


def hashed(expression: Expression) -> Expression:
    """Return the expression of the hash of a value: 1 to 2^32 - 1, NaN for what is no value."""

    def value(fields: Fields) -> NDArray[np.float64]:
        return value_hashes(np.asarray(expression.value(fields)))

    return Expression(f"hash({expression.text})", expression.fields, value)


def value_hashes(column: NDArray[Any]) -> NDArray[np.float64]:
    """Return a hash of each value: of numbers that are finite, of times, of texts that are not empty; else NaN.

    The numbers of one type are told apart whole: an id of 64 bits is not rounded to a float.
    """
    match column.dtype.kind:
        case "f":
            is_value = np.isfinite(column)
            bits = (column.astype(np.float64) + 0.0).view(np.uint64)  # -0.0 is 0.0
        case "b" | "i" | "u":
            is_value = np.ones(column.shape, np.bool_)
            bits = column.astype(np.int64).view(np.uint64)
        case "M":
            is_value = ~np.isnat(column)
            bits = column.astype(np.int64).view(np.uint64)
        case _:
            texts = list(map(str, column.tolist()))
            is_value = np.array(list(map(bool, texts)), np.bool_)
            bits = np.array(entity_checks(texts), np.int64).reshape(-1).view(np.uint64)
    hashes = np.maximum(_mixed(bits) >> np.uint64(_HASH_BITS), np.uint64(1))
    return np.where(is_value, hashes.astype(np.float64), np.nan)


def _mixed(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return numbers of which each bit depends on all bits: the last step of SplitMix64 (Steele et al., 2014)."""
    bits = bits + np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
