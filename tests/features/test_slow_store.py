"""The embedded store on a disk that takes its time: a page that is not in memory is read by whoever touches it."""

from __future__ import annotations

import mmap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from slow_disk import SlowDisk

from tailrace.features.stores.lmdb import LmdbWriter

PAGE_MS = 20
"""What a page of a slow disk takes."""

ROWS = {b"%06d" % index: b"%06d" % index * 40 for index in range(20_000)}
"""16 of them lie in one page: 1,400 pages in all."""

APART = list(ROWS)[::313]
"""64 keys, no two in one page."""


@pytest.fixture(scope="session")
def rows_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of a store that holds `ROWS`."""
    folder = tmp_path_factory.mktemp("rows")
    writer = LmdbWriter(folder)
    writer.put(ROWS.items())
    writer.close()
    return folder / "data.mdb"


@pytest.fixture
def disk(rows_file: Path, tmp_path: Path) -> Iterator[SlowDisk]:
    """Yield a disk with that file, as fast as any until it is told to be slow. Skipped where none can be had."""
    (tmp_path / "slow").mkdir()
    disk = SlowDisk(tmp_path / "slow", rows_file)
    if disk.refusal:
        disk.close()
        pytest.skip(disk.refusal)
    yield disk
    disk.close()


def test_slow_disk_holds_whoever_touches_a_page_that_is_not_in_memory(disk: SlowDisk) -> None:
    """The disk is as slow as it is told to be for a page through a map, once; and again when it has forgotten it."""
    with open(disk.path / "data.mdb", "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as pages:
        pages.madvise(mmap.MADV_RANDOM)
        disk.pause(PAGE_MS)
        for ms_min, ms_max in ((4 * PAGE_MS, 1_000), (0, PAGE_MS)):
            began_s = time.monotonic()
            assert len({pages[page * 4_096] for page in range(100, 104)}) >= 1
            assert ms_min <= (time.monotonic() - began_s) * 1e3 < ms_max
        reads = disk.forget()
        assert pages[100 * 4_096] == pages[100 * 4_096]
        assert disk.pause(0) == reads + 1
