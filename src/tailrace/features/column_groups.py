"""Columns of a stream view that are computed together: all of one kind at once, from (columns, rows).

The kernel (window_kernel.py) leaves what windows come to in cells of 8 bytes, (slots, rows). A group has its slots side
by side: for each field of its lanes, one a column. So finalizing takes slices, and one call for all columns of a kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tailrace.features.aggregates import KINDS
from tailrace.features.lanes import MomentLane
from tailrace.features.view_spec import Block
from tailrace.features.windows import WindowFeature, WindowSet


class Cell(NamedTuple):
    """What stands in one slot: a field of a lane, merged over a window. window, lane: their places in the view's.

    is_real: whether it is there as a float, whatever the field is: NumPy would convert it in every calculation.
    has_current: whether the event that the row is asked for counts in it.
    """

    slot: int
    window: int
    lane: int
    field: int
    is_real: bool
    has_current: bool


class ColumnGroup:
    """Columns of one kind, of the same decimals, in one block. features: at least one. slot: its first."""

    def __init__(self, windows: WindowSet, block: Block, features: Sequence[WindowFeature], slot: int) -> None:
        kind = KINDS[features[0].kind]
        self.cells: list[Cell] = []
        self._fields: list[list[tuple[bool, slice]]] = []
        for place, lane in enumerate(features[0].lanes):
            fields = []
            merged = windows.lanes[lane].lane
            for field, dtype in enumerate(merged.fields):
                begin = slot + len(self.cells)
                is_time = isinstance(merged, MomentLane) and field == 0
                is_real = np.dtype(dtype).kind == "f" or (kind.dtype == "<f8" and not is_time)
                self.cells += [
                    Cell(begin + column, each.window, each.lanes[place], field, is_real, each.include_current)
                    for column, each in enumerate(features)
                ]
                fields.append((is_real, slice(begin, begin + len(features))))
            self._fields.append(fields)
        self._finalize = kind.finalize
        self._decimals = features[0].decimals
        self._defaults = np.array([[each.default] for each in features])
        self._puts_defaults = kind.of_nothing is None or any(each.default != kind.of_nothing for each in features)
        self._block = block.field
        self._places = _slice_of([block.columns.index(each.name) for each in features])

    def fill(
        self, data: NDArray[Any], whole: NDArray[np.int64], real: NDArray[np.float64], now_ns: NDArray[np.int64]
    ) -> None:
        """Put the columns into `ViewRows.data`. whole, real: the cells, as either. now_ns: of each row."""
        lanes = [[(real if is_real else whole)[slots] for is_real, slots in fields] for fields in self._fields]
        values, is_nothing = self._finalize(lanes, self._decimals, now_ns)
        if self._puts_defaults and np.count_nonzero(is_nothing):
            values = np.where(is_nothing, self._defaults, values)
        data[self._block][:, self._places] = values.T


def column_groups(windows: WindowSet, blocks: Sequence[Block]) -> tuple[ColumnGroup, ...]:
    """Return the columns of a view in groups; their cells have the slots from 0 on, each once."""
    parts: dict[tuple[str, int | None, Block], list[WindowFeature]] = {}
    for feature in windows.features:
        block = next(each for each in blocks if feature.name in each.columns)
        parts.setdefault((feature.kind, feature.decimals, block), []).append(feature)
    groups: list[ColumnGroup] = []
    slots = 0
    for (_, _, block), features in parts.items():
        groups.append(ColumnGroup(windows, block, features, slots))
        slots += len(groups[-1].cells)
    return tuple(groups)


def _slice_of(places: list[int]) -> slice | list[int]:
    """Return ascending places as a slice where they are evenly apart: it is filled without an index."""
    steps = {after - before for before, after in pairwise(places)} or {1}
    return slice(places[0], places[-1] + 1, steps.pop()) if len(steps) == 1 else places
