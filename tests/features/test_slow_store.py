"""The embedded store on a disk that takes its time: a page that is not in memory is read by whoever touches it."""

from __future__ import annotations

import asyncio
import mmap
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from slow_disk import SlowDisk
from view_samples import Profile, run_now

from tailrace.batch import Provenance
from tailrace.deadline import NS_PER_MS, MonotonicClock
from tailrace.features.late import LateError
from tailrace.features.retrieval import Retrieval
from tailrace.features.rows import RowCodec
from tailrace.features.stores import warming
from tailrace.features.stores.lmdb import LmdbStore
from tailrace.features.stores.lmdb_writer import LmdbWriter

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
    writer.exchange(ROWS.items(), ())
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


# -- the deadline -----------------------------------------------------------------------------------------------------

DEADLINE_MS = 50
KEY_MS_MAX = 5 * PAGE_MS
"""What one key may take: the two pages that a transaction begins with, the root, a branch, the leaf."""

SLACK_MS = 100
"""What a busy machine may add."""

HELD_MS_MAX = DEADLINE_MS + KEY_MS_MAX + SLACK_MS


def cold_store(disk: SlowDisk) -> LmdbStore:
    """Return the store of a disk, open, with no page in memory."""
    store = LmdbStore(disk.path, MonotonicClock())
    asyncio.run(store.open())
    assert store.warming is not None
    store.warming.join()
    disk.forget()
    disk.pause(PAGE_MS)
    return store


def fetch_by(
    store: LmdbStore, keys: Sequence[bytes], deadline_ms: float = DEADLINE_MS
) -> tuple[list[bytes | None], float]:
    """Fetch with some time left; return what was read in time, and how many milliseconds it held the caller."""
    began_ns = time.monotonic_ns()
    try:
        rows = run_now(store.fetch(keys, began_ns + int(deadline_ms * NS_PER_MS)))
    except LateError as error:
        rows = error.rows
    return rows, (time.monotonic_ns() - began_ns) / NS_PER_MS


def probes() -> list[threading.Thread]:
    """Return the threads that read for a store."""
    return [thread for thread in threading.enumerate() if thread.name == "store-probe"]


def wait_for_probe() -> None:
    """Wait until no thread reads for a store."""
    for thread in probes():
        thread.join()


def test_store_on_a_slow_disk_gives_up_at_its_deadline(disk: SlowDisk) -> None:
    """64 keys on 64 pages would take over 1,280 ms: the loop has them no longer than until the deadline and a key."""
    store = cold_store(disk)
    with closing(store):
        rows, held_ms = fetch_by(store, APART)
        assert held_ms < HELD_MS_MAX
        assert 0 <= len(rows) < 10
        assert rows == [ROWS[key] for key in APART[: len(rows)]]


def test_store_that_was_late_is_left_alone_and_comes_back_by_itself(disk: SlowDisk) -> None:
    """Keys asked for meanwhile hold the loop not at all, and their values come without a restart, all of them."""
    store = cold_store(disk)
    with closing(store):
        fetch_by(store, APART)
        asked = 0
        longest_ms = longest_read_ms = 0.0
        rows: list[bytes | None] = []
        end_s = time.monotonic() + 20
        while rows != [ROWS[key] for key in APART]:
            assert time.monotonic() < end_s
            rows, held_ms = fetch_by(store, APART)
            asked += 1
            if rows:
                longest_read_ms = max(longest_read_ms, held_ms)
            else:
                longest_ms = max(longest_ms, held_ms)
            time.sleep(0.005)  # the loop's other work
        assert asked > 10
        assert longest_ms < SLACK_MS
        assert longest_read_ms < HELD_MS_MAX
        wait_for_probe()
        assert fetch_by(store, APART)[0] == [ROWS[key] for key in APART]
        assert not probes()


def test_probe_of_a_slow_disk_keeps_nobody_waiting(disk: SlowDisk) -> None:
    """While the thread waits for its pages, not one of them is waited for elsewhere in the process."""
    page_ms = 100
    store = cold_store(disk)
    with closing(store):
        fetch_by(store, APART[:8], deadline_ms=1)
        wait_for_probe()
        reads = disk.forget()  # also the pages that a transaction begins with
        disk.pause(page_ms)
        fetch_by(store, APART[8:16])
        last_ns, gap_ns = time.monotonic_ns(), 0
        while probes():
            bytearray(1 << 20)  # maps and unmaps memory, which a fault elsewhere must not hold up either
            now_ns = time.monotonic_ns()
            last_ns, gap_ns = now_ns, max(gap_ns, now_ns - last_ns)
        assert disk.pause(0) >= reads + 10, "the first two or more, a root, and eight pages of keys"
        assert gap_ns / NS_PER_MS < page_ms - 1


def test_store_left_alone_is_not_read_again_while_what_is_asked_is_late(disk: SlowDisk) -> None:
    """A batch whose pages come in late brings nothing back; the next one that is in memory does."""
    store = cold_store(disk)
    with closing(store):
        fetch_by(store, APART[:16])
        for begin in (16, 32):
            wait_for_probe()
            assert fetch_by(store, APART[begin : begin + 16])[0] == []
        wait_for_probe()
        assert fetch_by(store, APART[:16])[0] == []
        wait_for_probe()
        assert fetch_by(store, APART[:48])[0] == [ROWS[key] for key in APART[:48]]


def test_store_let_go_while_it_is_probed_reads_on(disk: SlowDisk) -> None:
    """Closing waits for the page that the thread waits for, and for no more; opened again it answers."""
    store = cold_store(disk)
    fetch_by(store, APART)
    began_s = time.monotonic()
    store.close()
    assert (time.monotonic() - began_s) * 1e3 < KEY_MS_MAX + SLACK_MS
    disk.pause(0)
    asyncio.run(store.open())
    with closing(store):
        assert fetch_by(store, APART, 1_000)[0] == [ROWS[key] for key in APART]


# -- a cold start -----------------------------------------------------------------------------------------------------


def test_store_that_starts_cold_is_in_memory_when_it_is_open(disk: SlowDisk) -> None:
    """What is opened with no page in memory reads its file in order, off the loop, and then no page from the disk."""
    disk.pause(PAGE_MS)
    store = LmdbStore(disk.path, MonotonicClock())
    asyncio.run(store.open())
    with closing(store):
        reads = disk.pause(PAGE_MS)
        assert 10 < reads < 500, "in long reads, not 1,400 pages one by one"
        assert fetch_by(store, APART)[0] == [ROWS[key] for key in APART]
        assert disk.pause(PAGE_MS) == reads


def test_store_that_is_still_cold_is_late_without_having_failed(
    disk: SlowDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that takes long is not waited for; what is late meanwhile are defaults, and no failure to be logged."""
    monkeypatch.setattr(warming, "WAIT_S_MAX", 0.05)
    disk.pause(200)
    store = LmdbStore(disk.path, MonotonicClock())
    began_s = time.monotonic()
    asyncio.run(store.open())
    with closing(store):
        assert time.monotonic() - began_s < 2
        retrieval = Retrieval([RowCodec(Profile.spec)], store, MonotonicClock())
        (rows,) = run_now(retrieval.read([list(range(0, 2**40, 2**34))], time.monotonic_ns() + NS_PER_MS))
        assert set(rows.provenance.tolist()) <= {Provenance.DEFAULT, Provenance.TIMEOUT}
        assert rows.provenance[-1] == Provenance.TIMEOUT
        assert retrieval.failure is None
        disk.pause(0)
        assert store.warming is not None
        store.warming.join()
        wait_for_probe()
        run_now(retrieval.read([[1]], time.monotonic_ns() + NS_PER_MS))
        wait_for_probe()
        (rows,) = run_now(retrieval.read([[1]], time.monotonic_ns() + NS_PER_MS))
        assert rows.provenance.tolist() == [Provenance.DEFAULT], "unknown, and in time"
