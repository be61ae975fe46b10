"""Metric blocks in shared memory: written by one process, read by another, taken over by a successor."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from tailrace.deadline import Budget
from tailrace.monitor.layout import PipelineShape, SeriesLayout, worker_layout
from tailrace.monitor.shared import BlockReader, MetricBlock, make_block_fd

FRAUD = worker_layout([PipelineShape("fraud", Budget("50ms", inference="20ms"), ("Profile",))])
BOTH = worker_layout([PipelineShape("fraud", Budget("50ms")), PipelineShape("pricing", Budget("10ms"))])

_WRITER = """
import sys
from tailrace.deadline import Budget
from tailrace.monitor.layout import PipelineShape, worker_layout
from tailrace.monitor.shared import MetricBlock
layout = worker_layout([PipelineShape("fraud", Budget("50ms", inference="20ms"), ("Profile",))])
block = MetricBlock.create(layout, int(sys.argv[1]))
block.cells[layout.find("tailrace_rows_total", "fraud").offset] += 5
block.cells[layout.find("tailrace_connections", "0").offset] += 9
"""


@pytest.fixture
def fd() -> Iterator[int]:
    """A block's file."""
    made = make_block_fd("test")
    yield made
    os.close(made)


def value(read: tuple[SeriesLayout, np.ndarray] | None, name: str, *labels: str) -> int:
    """Return one value of a read block."""
    assert read is not None
    return int(read[1][read[0].find(name, *labels).offset])


def test_block_not_yet_written_reads_as_nothing(fd: int) -> None:
    """A reader that is there before the writer sees nothing, then everything."""
    reader = BlockReader(fd)
    assert reader.read() is None
    block = MetricBlock.create(FRAUD, fd)
    block.cells[FRAUD.find("tailrace_rows_total", "fraud").offset] += 3
    assert value(reader.read(), "tailrace_rows_total", "fraud") == 3


def test_block_counts_on_across_writers_of_other_processes(fd: int) -> None:
    """A successor of the same layout goes on from its predecessor's counters; gauges begin at 0 again."""
    reader = BlockReader(fd)
    for rows in (5, 10):
        subprocess.run([sys.executable, "-c", _WRITER, str(fd)], pass_fds=[fd], check=True)
        assert value(reader.read(), "tailrace_rows_total", "fraud") == rows
        assert value(reader.read(), "tailrace_connections", "0") == 9
    reader.reset_gauges()
    assert value(reader.read(), "tailrace_connections", "0") == 0
    assert value(reader.read(), "tailrace_rows_total", "fraud") == 10


def test_block_of_another_layout_begins_anew(fd: int) -> None:
    """A larger layout takes the file over from 0, a reader follows, and the way back is clean as well."""
    reader = BlockReader(fd)
    for layout in (FRAUD, BOTH, FRAUD):
        block = MetricBlock.create(layout, fd)
        found = reader.read()
        assert found is not None
        assert found[0] == layout
        assert not found[1].any()
        np.frombuffer(block.cells, dtype=np.uint64)[:] = 7


def test_block_being_written_reads_as_nothing(fd: int) -> None:
    """Between two layouts there is nothing to read; the reader recovers."""
    MetricBlock.create(FRAUD, fd)
    reader = BlockReader(fd)
    assert reader.read() is not None
    state = os.pread(fd, 8, 16)
    os.pwrite(fd, bytes(8), 16)
    assert reader.read() is None
    assert BlockReader(fd).read() is None
    os.pwrite(fd, state, 16)
    assert reader.read() is not None


@pytest.mark.parametrize("offset", [0, 8, 32, 40, 48, 64])
def test_block_with_broken_header_reads_as_nothing(fd: int, offset: int) -> None:
    """A header or layout that makes no sense is nothing to read, never a crash."""
    MetricBlock.create(FRAUD, fd)
    os.pwrite(fd, b"\x7f" * 8, offset)
    assert BlockReader(fd).read() is None


def test_block_larger_than_its_limit_is_refused() -> None:
    """A layout of too many series is an error at start-up, not an endless block."""
    shapes = [PipelineShape(f"p{index}", Budget("50ms")) for index in range(20)]
    layout = SeriesLayout(worker_layout(shapes).series * 150)
    with pytest.raises(ValueError, match="at most"):
        MetricBlock.create(layout)


def test_layout_places_series_side_by_side() -> None:
    """Every cell belongs to exactly one series."""
    taken = [cell for series in BOTH.series for cell in range(series.offset, series.offset + series.length)]
    assert taken == list(range(BOTH.cells))


def test_layout_without_a_series_says_so() -> None:
    """Looking for what is not there names it."""
    with pytest.raises(KeyError, match="tailrace_rows_total"):
        FRAUD.find("tailrace_rows_total", "pricing")
