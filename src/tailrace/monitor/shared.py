"""A worker's metrics in shared memory: 64-bit cells with one writer, read by the supervisor at any time.

The block is an anonymous file (memfd) that the supervisor makes and every worker of one slot inherits:

    8 header cells | the layout as JSON, padded | the cells

A new worker of the slot goes on where the last one stopped when its layout is the same (counters stay monotone), and
begins anew when it is not. The file only ever grows, so a reader's mapping stays valid.
"""

from __future__ import annotations

import mmap
import os
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from tailrace.monitor.histogram import Histogram
from tailrace.monitor.layout import Series, SeriesLayout

_MAGIC: Final = int.from_bytes(b"TAILMETR", "little")
_VERSION: Final = 1
_HEADER_BYTES: Final = 64
_BLOCK_BYTES_MAX: Final = 64 << 20
# The header's cells:
_AT_MAGIC, _AT_VERSION, _AT_STATE, _AT_GENERATION, _AT_LAYOUT_BYTES, _AT_CELLS_OFFSET, _AT_CELLS = range(7)
_WRITING, _WHOLE = 0, 1


def make_block_fd(name: str) -> int:
    """Return a new, empty anonymous file for one block. The caller owns the descriptor."""
    return os.memfd_create(f"tailrace-{name}", os.MFD_CLOEXEC)


class MetricBlock:
    """The writer's side. `cells` counts plainly: `block.cells[series.offset] += 1`."""

    def __init__(self, layout: SeriesLayout, mapping: mmap.mmap, cells: memoryview) -> None:
        self.layout = layout
        self.cells = cells
        self._mapping = mapping
        self._index = {(series.name, series.labels): series for series in layout.series}

    @classmethod
    def create(cls, layout: SeriesLayout, fd: int | None = None) -> MetricBlock:
        """Lay the block out in a file, or go on with the one that is there; gauges begin at 0 either way.

        fd: of `make_block_fd`, inherited; a private one is made where none is given.
        """
        if fd is not None:
            return cls._lay_out(layout, fd)
        own_fd = make_block_fd("private")
        try:
            return cls._lay_out(layout, own_fd)
        finally:
            os.close(own_fd)

    @classmethod
    def _lay_out(cls, layout: SeriesLayout, fd: int) -> MetricBlock:
        """Map the file and make sure that it has this layout."""
        layout_json = msgspec.json.encode(layout)
        cells_offset = _HEADER_BYTES + -(-len(layout_json) // 64) * 64
        size_bytes = cells_offset + 8 * layout.cells
        if size_bytes > _BLOCK_BYTES_MAX:
            raise ValueError(f"a metric block of {size_bytes:,} bytes; at most {_BLOCK_BYTES_MAX:,} are kept")
        if os.fstat(fd).st_size < size_bytes:
            os.ftruncate(fd, size_bytes)
        mapping = mmap.mmap(fd, os.fstat(fd).st_size)
        header = memoryview(mapping)[:_HEADER_BYTES].cast("Q")
        cells = memoryview(mapping)[cells_offset:size_bytes].cast("Q")
        same = (
            header[_AT_MAGIC] == _MAGIC and header[_AT_VERSION] == _VERSION and header[_AT_STATE] == _WHOLE
            and header[_AT_LAYOUT_BYTES] == len(layout_json)
            and mapping[_HEADER_BYTES : _HEADER_BYTES + len(layout_json)] == layout_json
        )  # fmt: skip
        if not same:
            header[_AT_STATE] = _WRITING
            header[_AT_GENERATION] += 1
            mapping[_HEADER_BYTES:size_bytes] = layout_json.ljust(size_bytes - _HEADER_BYTES, b"\0")
            header[_AT_MAGIC], header[_AT_VERSION] = _MAGIC, _VERSION
            header[_AT_LAYOUT_BYTES], header[_AT_CELLS_OFFSET] = len(layout_json), cells_offset
            header[_AT_CELLS] = layout.cells
            header[_AT_STATE] = _WHOLE
        block = cls(layout, mapping, cells)
        block.reset_gauges()
        return block

    def find(self, name: str, *labels: str) -> Series:
        """Return one series. Raises KeyError where the layout has none."""
        return self._index[name, labels]

    def histogram(self, name: str, *labels: str) -> Histogram:
        """Return a histogram that counts in the cells of one series. Raises KeyError where the layout has none."""
        series = self.find(name, *labels)
        return Histogram(series.edges, self.cells[series.offset : series.offset + series.length])

    def reset_gauges(self) -> None:
        """Set every gauge to 0."""
        for series in self.layout.series:
            if series.is_gauge:
                self.cells[series.offset] = 0

    def read(self) -> tuple[SeriesLayout, NDArray[np.uint64]]:
        """Return the layout and a copy of the cells, as a `BlockReader` would."""
        return self.layout, np.frombuffer(self.cells, dtype=np.uint64).copy()


class BlockReader:
    """The reader's side of one block, which may not be written yet, or be written again at any time."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._mapping: mmap.mmap | None = None
        self._header = memoryview(bytes(_HEADER_BYTES)).cast("Q")
        self._generation = 0
        self._layout = SeriesLayout(())
        self._cells: memoryview = memoryview(b"").cast("B")

    def read(self) -> tuple[SeriesLayout, NDArray[np.uint64]] | None:
        """Return the layout and a copy of the cells; None while the block is not whole."""
        if self._mapping is None or self._header[_AT_GENERATION] != self._generation:
            self._map()
        cells = np.frombuffer(self._cells, dtype=np.uint64).copy()
        if self._header[_AT_STATE] != _WHOLE or self._header[_AT_GENERATION] != self._generation:
            return None
        return self._layout, cells

    def reset_gauges(self) -> None:
        """Set every gauge to 0, on behalf of a writer that is dead."""
        if self.read() is not None:
            for series in self._layout.series:
                if series.is_gauge:
                    self._cells[8 * series.offset : 8 * series.offset + 8] = bytes(8)

    def _map(self) -> None:
        """Map the file as it is now and read its layout, if it is whole."""
        size_bytes = os.fstat(self._fd).st_size
        if size_bytes < _HEADER_BYTES:
            return
        mapping = mmap.mmap(self._fd, size_bytes)
        header = memoryview(mapping)[:_HEADER_BYTES].cast("Q")
        if header[_AT_MAGIC] != _MAGIC or header[_AT_VERSION] != _VERSION or header[_AT_STATE] != _WHOLE:
            return
        generation, offset, count = header[_AT_GENERATION], header[_AT_CELLS_OFFSET], header[_AT_CELLS]
        layout_end = _HEADER_BYTES + header[_AT_LAYOUT_BYTES]
        if layout_end > offset or offset + 8 * count > size_bytes:
            return
        try:
            layout = msgspec.json.decode(mapping[_HEADER_BYTES:layout_end], type=SeriesLayout)
        except msgspec.DecodeError:
            return
        self._cells = memoryview(mapping)[offset : offset + 8 * count]
        self._mapping, self._header, self._layout, self._generation = mapping, header, layout, generation


class OwnedBlock(BlockReader):
    """A block whose file its reader makes and owns; the processes that write it, one after the other, inherit `fd`."""

    def __init__(self, name: str) -> None:
        self.fd = make_block_fd(name)
        super().__init__(self.fd)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self.fd)
