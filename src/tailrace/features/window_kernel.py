"""Windows merged without NumPy's fixed cost: the compiled kernel (windows.c), for serving.

Optional: the library is compiled when Tailrace is installed where there is a C compiler. `WindowSet` in windows.py says
the rule, and computes the same where there is none.
"""

from __future__ import annotations

import ctypes
import sys
from array import array
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tailrace.features.column_groups import Cell
from tailrace.features.events import EventIds
from tailrace.features.lanes import Columns, CountLane, ExtremeLane, Lane, MomentLane, MomentsLane, SumLane
from tailrace.features.states import StateLayout
from tailrace.features.windows import Window

LIBRARY: Final = Path(__file__).with_name("libwindows.so")
"""Where the build (hatch_build.py) puts the library."""
LIBRARY_LAYOUT: Final = 2
"""Of `_Plan` and its arrays, as windows.c has it."""

_NOTED: Final = 1
_REASONS: Final = {2: "the library was compiled from another version of windows.c", 3: "out of memory"}
_FOUND, _REFUSED, _LATE = 1, 2, 4

MergeFunction = Callable[[int, bytes, Any, int, Any, Any, int, Any, Any], int]
"""The library's function; windows.c says what it takes."""

_borrow: Final[Callable[[Any], Any]] = (ctypes.c_char * 0).from_buffer
"""A pointer to an array that lends its buffer: the cheapest way (inference/backends/kernel.py)."""


class _Plan(ctypes.Structure):
    """`tailrace_plan` of windows.c."""

    _fields_ = (
        ("layout", ctypes.c_int64),
        ("stamp", ctypes.c_uint64),
        *((name, ctypes.c_int64) for name in ("tile_bytes", "event_bytes", "has_text_ids")),
        *((name, ctypes.c_int64) for name in ("windows_count", "lanes_count", "slots", "delay_ns")),
        *((name, ctypes.c_void_p) for name in ("windows", "lanes", "cells")),
    )


class Noted(NamedTuple):
    """Which rows have a state, which stored values were refused, and which rows are before their entity's horizon."""

    found: NDArray[np.bool_]
    errors: NDArray[np.bool_]
    is_late: NDArray[np.bool_]


def open_library(path: Path = LIBRARY) -> MergeFunction:
    """Return the function of the compiled library. Raises OSError, saying why, where it cannot be used.

    It keeps the GIL: a batch takes microseconds, and a thread that has let go of the GIL may wait 5 ms to get it back.
    """
    if not path.is_file():
        raise OSError("it was not compiled when Tailrace was installed")
    if sys.byteorder != "little":
        raise OSError("this processor is not little-endian, as the stored values are")
    try:
        function = ctypes.PyDLL(str(path)).tailrace_merge_windows
    except AttributeError as error:
        raise OSError(f"{path.name} is another library") from error
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    function.argtypes = (pointer, ctypes.c_char_p, pointer, number, pointer, pointer, number, pointer, pointer)
    function.restype = ctypes.c_int
    return function


class WindowKernel:
    """The windows of one view, in the library's hands.

    cells: what is asked for; their slots are the numbers from 0 on. merge: the function of `open_library`.
    Raises OSError where the library was compiled from another version, or does not know a lane.
    """

    __slots__ = ("_address", "_arrays", "_fields", "_id_bytes", "_id_kind", "_merge", "_plan", "_slots")

    def __init__(self, layout: StateLayout, cells: Sequence[Cell], merge: MergeFunction) -> None:
        windows, uses = layout.windows.windows, layout.windows.lanes
        order = sorted(range(len(windows)), key=lambda place: _order(windows[place]))
        by_window = [[cell for cell in cells if cell.window == place] for place in order]
        first_cells = [0, *accumulate(map(len, by_window))]
        counts = [len(use.lane.fields) for use in uses]
        first_fields = [0, *accumulate(counts)]
        window_rows = [_window(windows[place], first) for place, first in zip(order, first_cells, strict=False)]
        lane_rows = [
            (_code(use.lane), offset, first)
            for use, offset, first in zip(uses, layout.lane_offsets, first_fields, strict=False)
        ]
        cell_rows = [
            (cell.lane, cell.field, cell.slot, cell.is_real, cell.has_current) for part in by_window for cell in part
        ]
        tables = ([*window_rows, (0, 1, 0, first_cells[-1])], lane_rows, cell_rows)
        self._arrays = tuple(np.array(table, np.int64) for table in tables)
        self._fields = first_fields[-1]
        self._slots = len(cells)
        self._id_kind, self._id_bytes = ("S", 1) if layout.has_text_ids else ("i", 8)
        self._merge = merge
        self._plan = _Plan(
            LIBRARY_LAYOUT, layout.stamp, layout.tile_bytes, layout.event_bytes, layout.has_text_ids, len(windows),
            len(uses), len(cells), layout.windows.delay_ns, *(each.ctypes.data for each in self._arrays),
        )  # fmt: skip
        self._address = ctypes.addressof(self._plan)
        self.merge([], [], np.zeros(0, np.int64), None, None)

    def merge(
        self,
        checks: Sequence[int],
        rows: Sequence[bytes | None],
        now_ns: NDArray[np.int64],
        ids: EventIds | None,
        own: Sequence[Columns] | None,
    ) -> tuple[NDArray[np.int64], Noted | None]:
        """Return the cells, (slots + 1, rows), and what is to be noted of the rows; None where all are fresh.

        checks, rows: of each row's entity, and what is stored of it. now_ns, ids: of the event that each row is asked
        for; None: a window ends before its time. own: the columns of every lane for that event, for cells that count
        it; None where there is none. Raises ValueError where these do not fit each other; nothing for what rows hold.
        """
        count = len(rows)
        if len(checks) != count or now_ns.shape != (count,) or now_ns.dtype != np.int64:
            raise ValueError(f"{count} rows with {len(checks)} checks and times {now_ns.dtype}{now_ns.shape}")
        if ids is not None and (
            ids.dtype.kind != self._id_kind or ids.itemsize < self._id_bytes or ids.shape != (count,)
        ):
            raise ValueError(f"ids {ids.dtype}{ids.shape} are not those of {count} events of the stream")
        lengths: Iterable[int]
        try:
            values, lengths = b"".join(rows), map(len, rows)  # type: ignore[arg-type]
        except TypeError:  # None: nothing is stored
            values, lengths = b"".join(filter(None, rows)), [-1 if row is None else len(row) for row in rows]
        numbers = array("q", [*lengths, *checks])
        cells = np.empty((self._slots + 1, count), np.int64)
        status = self._merge(
            self._address, values, _borrow(numbers), count, _lend(now_ns), None if ids is None else _lend(ids),
            0 if ids is None else ids.itemsize, None if own is None else _lend(self._own_fields(own, count)),
            _borrow(cells),
        )  # fmt: skip
        if status > _NOTED:
            raise OSError(_REASONS[status])
        if not status:
            return cells, None
        flags = cells[-1]
        return cells, Noted((flags & _FOUND) > 0, (flags & _REFUSED) > 0, (flags & _LATE) > 0)

    def _own_fields(self, own: Sequence[Columns], rows: int) -> NDArray[np.int64]:
        """Return the fields of all lanes of the rows' own events as cells, (fields, rows)."""
        whole = np.empty((self._fields, rows), np.int64)
        real = whole.view(np.float64)
        place = 0
        for columns in own:
            for column in columns:
                (real if column.dtype.kind == "f" else whole)[place] = column
                place += 1
        return whole


def _lend(values: NDArray[Any]) -> Any:
    """Return a pointer to an array; to a copy of one that does not lend its buffer."""
    return _borrow(values if values.flags.carray else np.require(values, None, ["C", "A", "W"]))


def _order(window: Window) -> tuple[int, int, int]:
    """Return what windows are sorted by: those of one delay together, shortest first."""
    return window.delay_ns, window.length_ns is None, window.length_ns or 0


def _window(window: Window, first_cell: int) -> tuple[int, int, int, int]:
    """Return a `tailrace_window` of windows.c."""
    return -1 if window.length_ns is None else window.length_ns, window.hop_ns, window.delay_ns, first_cell


def _code(lane: Lane) -> int:
    """Return the kind of a lane, as windows.c numbers them. Raises OSError for one that it does not know."""
    codes: dict[Lane, int] = {
        CountLane(): 0, SumLane(None): 2, ExtremeLane(is_max=False): 3, ExtremeLane(is_max=True): 4, MomentsLane(): 5,
        MomentLane(is_latest=True): 6, MomentLane(is_latest=False): 7,
    }  # fmt: skip
    if isinstance(lane, SumLane) and lane.decimals is not None:
        return 1
    try:
        return codes[lane]
    except KeyError:
        raise OSError(f"it does not know {lane}") from None
