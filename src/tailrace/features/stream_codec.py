"""The codec of a stream view: from the states of a batch's entities to the columns of its rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tailrace.batch import Degraded, Provenance
from tailrace.features.column_groups import column_groups
from tailrace.features.events import Events
from tailrace.features.keys import EntityId, KeyFormat, entity_checks, row_name
from tailrace.features.row_layout import row_layout
from tailrace.features.states import StateLayout
from tailrace.features.view_rows import ViewRows
from tailrace.features.view_spec import ViewSpec
from tailrace.features.window_kernel import LIBRARY, WindowKernel, open_library
from tailrace.features.windows import WindowSet


class StreamCodec:
    """Reads the states of one view.

    windows: what its columns are computed from. schema_id: of what is kept. library: the compiled kernel that merges
    the windows. kernel_reason: why NumPy does in its place, as it can anywhere, thirty times as slow; empty otherwise.
    """

    def __init__(
        self, spec: ViewSpec, windows: WindowSet, schema_id: int, *, has_text_ids: bool, library: Path = LIBRARY
    ) -> None:
        layout = row_layout(spec)
        self.spec = spec
        self.blocks = layout.blocks
        self.schema_id = schema_id
        self.windows = windows
        self.states = StateLayout(windows, schema_id, has_text_ids=has_text_ids)
        format_ = KeyFormat(spec.entity.name, row_name(spec.name, schema_id))
        self.key, self.keys = format_.key, format_.keys
        self._dtype = layout.dtype
        self._delay_ns = windows.delay_ns
        self._default = np.zeros(1, self._dtype)
        for column in spec.columns:
            self._default[column.name] = column.default
        self._groups = column_groups(windows, layout.blocks)
        self._counts_current = any(feature.include_current for feature in windows.features)
        self._kernel: WindowKernel | None = None
        self.kernel_reason = ""
        try:
            cells = [cell for group in self._groups for cell in group.cells]
            self._kernel = WindowKernel(self.states, cells, open_library(library))
        except OSError as error:
            self.kernel_reason = str(error)

    def unpack(
        self,
        ids: Sequence[EntityId],
        rows: Sequence[bytes | None],
        wall_ns: int,
        checks: list[int] | None = None,
        current: Events | None = None,
    ) -> ViewRows:
        """Return the values of each id for the event it is asked for; without one, for what comes at `wall_ns`.

        One with a window that ends before the entity's horizon is answered by whole tiles, and said to be stale.
        """
        count = len(rows)
        if not count:
            return ViewRows(np.repeat(self._default, 0), {})
        if checks is None:
            checks = entity_checks(ids)
        now_ns = np.full(count, wall_ns, np.int64) if current is None else current.times
        if self._kernel is not None:
            return self._unpack_compiled(self._kernel, checks, rows, now_ns, current)
        return self._unpack_in_numpy(checks, rows, now_ns, current)

    def _unpack_compiled(
        self,
        kernel: WindowKernel,
        checks: Sequence[int],
        rows: Sequence[bytes | None],
        now_ns: NDArray[np.int64],
        current: Events | None,
    ) -> ViewRows:
        own = self.windows.prepare(current) if self._counts_current and current is not None else None
        cells, noted = kernel.merge(checks, rows, now_ns, None if current is None else current.ids, own)
        data = np.zeros(len(rows), self._dtype)
        real = cells.view(np.float64)
        for group in self._groups:
            group.fill(data, cells, real, now_ns)
        return ViewRows(data, {}) if noted is None else ViewRows(data, {}, *self._noted(*noted))

    def _unpack_in_numpy(
        self,
        checks: Sequence[int],
        rows: Sequence[bytes | None],
        now_ns: NDArray[np.int64],
        current: Events | None,
    ) -> ViewRows:
        states = self.states.unpack(checks, rows)
        blocks = [states.tiles, states.events] if len(states.events) else [states.tiles]
        values = self.windows.values(blocks, now_ns, None if current is None else current.ids, current)
        data = np.zeros(len(rows), self._dtype)
        for name, column in values.items():
            data[name] = column
        is_late = states.found & (states.heads["horizon"] > now_ns - self._delay_ns)
        return ViewRows(data, {}, *self._noted(states.found, states.errors, is_late))

    def _noted(
        self, found: NDArray[np.bool_], errors: NDArray[np.bool_], is_late: NDArray[np.bool_]
    ) -> tuple[NDArray[np.uint8] | None, None, NDArray[np.uint8] | None, int]:
        """Return provenance, nulls, reasons of degradation and errors, as `ViewRows` has them."""
        if found.all() and not is_late.any():
            return None, None, None, 0
        provenance = np.where(found, np.uint8(Provenance.FRESH), np.uint8(Provenance.DEFAULT))
        provenance[is_late] = Provenance.STALE
        errors_count = int(np.count_nonzero(errors))
        if not errors_count and not is_late.any():
            return provenance, None, None, 0
        degraded: Any = is_late * np.uint8(Degraded.STALE_FEATURES) | errors * np.uint8(Degraded.STORE_ERROR)
        return provenance, None, degraded, errors_count

    def defaults(self, rows_count: int, provenance: Provenance, degraded: int = 0) -> ViewRows:
        """Return the view's defaults, for entities that are unknown or a store that did not answer."""
        return ViewRows(
            np.repeat(self._default, rows_count),
            {},
            np.full(rows_count, provenance, np.uint8),
            degraded=np.full(rows_count, degraded, np.uint8) if degraded else None,
        )
