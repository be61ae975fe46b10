"""Summing what several blocks have counted, once a second and in little time, however often a writer begins anew.

Where each cell goes is found once for a set of layouts (`_Plan`); a merge then adds whole stretches of cells. A block
that is laid out anew, for another release say, begins at 0: what it had counted before is kept, so that a merged
counter never falls while a series of it is there.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from tailrace.monitor.histogram import places_in
from tailrace.monitor.layout import Series, SeriesLayout
from tailrace.monitor.merged import Index, MergedMetrics

INFERENCE: Final = "inference"


class ReadableBlock(Protocol):
    """A `BlockReader`, or a `MetricBlock` of this process."""

    def read(self) -> tuple[SeriesLayout, NDArray[np.uint64]] | None:
        """Return the layout and a copy of the cells; None while there is nothing whole."""
        ...


Read = tuple[SeriesLayout, NDArray[np.int64]]


class Merger:
    """Merges the same blocks again and again."""

    def __init__(self, blocks: Iterable[ReadableBlock]) -> None:
        self._blocks = list(blocks)
        self._last: list[Read | None] = [None] * len(self._blocks)
        self._plan = _Plan([])
        self._before = np.zeros(0, np.int64)

    def merge(self, at_ns: int | None = None) -> MergedMetrics:
        """Read every block and sum them by series. A block that was never whole is left out."""
        ended: list[Read] = []
        for place, block in enumerate(self._blocks):
            found, last = block.read(), self._last[place]
            if found is None:
                continue  # it is being laid out: what it was is still to be told of
            layout, cells = found
            if last is not None and last[0] is not layout:
                ended.append(last)
            self._last[place] = layout, cells.view(np.int64)
        reads = [read for read in self._last if read is not None]
        if not self._plan.is_of(reads):
            self._replan(reads, ended)
        sums = self._plan.sum(reads)
        sums += self._before
        return MergedMetrics.of(self._plan.index, sums, time.monotonic_ns() if at_ns is None else at_ns)

    def _replan(self, reads: Sequence[Read], ended: Sequence[Read]) -> None:
        """Find the places of other layouts, and in them what ended blocks had counted."""
        earlier, before = self._plan.index, self._before
        self._plan = plan = _Plan([layout for layout, _ in reads])
        self._before = np.zeros(plan.index.cells, np.int64)
        kept = [(earlier.series[key], before[start:stop]) for key, (start, stop) in earlier.places.items()]
        for layout, cells in ended:
            kept += [(one, cells[one.offset : one.offset + one.length]) for one in _with_releases(layout)]
        for one, cells in kept:
            if one.is_gauge or (place := plan.index.places.get((one.name, one.labels))) is None:
                continue
            to = plan.index.series[one.name, one.labels]
            _add(self._before[slice(*place)], cells, places_in(one.edges, to.edges) if one.moves_to(to) else None)


def merge_blocks(blocks: Iterable[ReadableBlock], at_ns: int | None = None) -> MergedMetrics:
    """Read every block once and sum them by series. Blocks that are not whole yet are left out."""
    return Merger(blocks).merge(at_ns)


@dataclass(frozen=True, slots=True)
class _Move:
    """Some cells of a block, and where their sum is kept. places: of each among these, where edges differ."""

    start: int
    stop: int
    to: int
    to_stop: int
    places: NDArray[np.int64] | None = None


class _Plan:
    """Where the cells of some layouts are summed."""

    def __init__(self, layouts: Sequence[SeriesLayout]) -> None:
        self._layouts = layouts
        told = [_with_releases(layout) for layout in layouts]
        self.index = Index.of(chain.from_iterable(told))
        self._moves = [_joined([self._move(one) for one in series]) for series in told]

    def is_of(self, reads: Sequence[Read]) -> bool:
        """Return whether these blocks have its layouts."""
        return len(reads) == len(self._layouts) and all(
            read[0] is layout for read, layout in zip(reads, self._layouts, strict=True)
        )

    def sum(self, reads: Sequence[Read]) -> NDArray[np.int64]:
        """Return the sums of all series, one behind the other."""
        sums = np.zeros(self.index.cells, np.int64)
        for (_, cells), moves in zip(reads, self._moves, strict=True):
            for move in moves:
                _add(sums[move.to : move.to_stop], cells[move.start : move.stop], move.places)
        return sums

    def _move(self, one: Series) -> _Move:
        key = (one.name, one.labels)
        (to, to_stop), target = self.index.places[key], self.index.series[key]
        places = places_in(one.edges, target.edges) if one.moves_to(target) else None
        return _Move(one.offset, one.offset + one.length, to, to_stop, places)


def _with_releases(layout: SeriesLayout) -> list[Series]:
    """Return the series of a layout, and those that are told by release as well, of the same cells."""
    found = list(layout.series)
    for one in layout.series if layout.release else ():
        if one.name == "tailrace_layer_seconds" and one.labels[1] == INFERENCE:
            labels = (one.labels[0], layout.release)
            found.append(Series("tailrace_inference_seconds", labels, one.offset, one.length, scale_ns=one.scale_ns))
    return found


def _joined(moves: Sequence[_Move]) -> list[_Move]:
    """Return fewer moves that do the same: those of neighbours to neighbours are one."""
    joined: list[_Move] = []
    for move in moves:
        last = joined[-1] if joined else None
        if last and last.places is None and move.places is None and (last.stop, last.to_stop) == (move.start, move.to):
            joined[-1] = _Move(last.start, move.stop, last.to, move.to_stop)
        else:
            joined.append(move)
    return joined


def _add(sums: NDArray[np.int64], cells: NDArray[np.int64], places: NDArray[np.int64] | None) -> None:
    """Add cells, each to its place among the sums where these are given."""
    if places is None:
        sums += cells
    else:
        np.add.at(sums, places, cells)
