"""The embedded store under the faults of files: removed, replaced, cut short, grown, not a store at all."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from view_samples import WALL_NS, Profile, profile_rows, run_now

from tailrace.batch import Degraded, Provenance
from tailrace.errors import LeaseError, StoreError
from tailrace.features.retrieval import Retrieval
from tailrace.features.rows import RowCodec
from tailrace.features.stores.lmdb import LmdbStore
from tailrace.features.stores.lmdb_writer import TRANSACTION_ROWS_MAX, LmdbWriter
from tailrace.features.stores.runs import PageRow
from tailrace.testing import ManualClock

NEVER_NS = 1 << 62
"""A deadline that does not come."""

WRITE = """
import sys
from tailrace.features.stores.lmdb_writer import LmdbWriter
writer = LmdbWriter(sys.argv[1])
writer.exchange([(bytes.fromhex(key), bytes.fromhex(value)) for key, value in map(str.split, sys.stdin)], ())
writer.close()
"""
CUT_SHORT = """
import os, sys
from tailrace.deadline import MonotonicClock
from tailrace.errors import StoreError
from tailrace.features.stores.lmdb import LmdbStore
store = LmdbStore(sys.argv[1], MonotonicClock())
keys = [b"%d" % index for index in range(1000)]
def send(coroutine):
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
send(store.open())
assert send(store.fetch(keys, 1 << 62)) == [b"x" * 500] * 1000
os.truncate(os.path.join(sys.argv[1], "data.mdb"), 8192)
for _ in range(3):
    try:
        send(store.fetch(keys, 1 << 62))
        print("served")
    except StoreError as error:
        print("refused")
"""


def write(path: Path, rows: dict[bytes, bytes]) -> None:
    """Write rows from another process, as a materialisation would."""
    lines = "\n".join(f"{key.hex()} {value.hex()}" for key, value in rows.items())
    subprocess.run([sys.executable, "-c", WRITE, str(path)], input=lines, text=True, check=True)


@pytest.fixture
def clock() -> ManualClock:
    """Return a clock moved by hand."""
    return ManualClock(wall_ns=WALL_NS)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a store with the profiles of 1 and 2."""
    writer = LmdbWriter(tmp_path / "store")
    writer.exchange(profile_rows([1, 2]).items(), ())
    writer.close()
    return tmp_path / "store"


@pytest.fixture
def store(path: Path, clock: ManualClock) -> Iterator[LmdbStore]:
    """Yield that store, open."""
    store = LmdbStore(path, clock)
    run_now(store.open())
    yield store
    store.close()


def remove(path: Path) -> None:
    """Remove a store's files."""
    for file in path.iterdir():
        file.unlink()


def test_lmdb_store_without_files_says_how_to_make_them(tmp_path: Path, clock: ManualClock) -> None:
    """A store that was never written tells of the command that writes it."""
    with pytest.raises(StoreError, match="tailrace materialize"):
        run_now(LmdbStore(tmp_path / "none", clock).open())


@pytest.mark.parametrize("content", [b"", b"garbage" * 10_000])
def test_lmdb_store_of_another_kind_of_file_is_an_error(tmp_path: Path, clock: ManualClock, content: bytes) -> None:
    """A data.mdb that is none is refused at open."""
    (tmp_path / "data.mdb").write_bytes(content)
    with pytest.raises(StoreError, match="not a store"):
        run_now(LmdbStore(tmp_path, clock).open())


def test_lmdb_store_removed_under_load_gives_defaults_then_recovers(
    path: Path, store: LmdbStore, clock: ManualClock
) -> None:
    """Removed files give defaults that say so, a new store is found by itself, and its values are served."""
    codec = RowCodec(Profile.spec)
    retrieval = Retrieval([codec], store, clock)
    (rows,) = run_now(retrieval.read([[2]], 0))
    assert rows.column("count").tolist() == [1]
    remove(path)
    for _ in range(3):
        (rows,) = run_now(retrieval.read([[2]], 0))
        assert rows.provenance.tolist() == [Provenance.TIMEOUT]
        assert rows.degraded is not None
        assert rows.degraded.tolist() == [Degraded.STORE_ERROR]
        clock.advance(60)
    write(path, profile_rows([3, 2]))
    clock.advance(100)
    (rows,) = run_now(retrieval.read([[3, 2, 1]], 0))
    assert rows.column("count").tolist() == [0, 1, -1]


def test_lmdb_store_gone_looks_for_files_only_now_and_then(path: Path, store: LmdbStore, clock: ManualClock) -> None:
    """Between two tries to open it the store fails without touching the disk."""
    remove(path)
    with pytest.raises(StoreError):
        run_now(store.fetch([b"a"], NEVER_NS))
    write(path, {b"a": b"1"})
    with pytest.raises(StoreError):
        run_now(store.fetch([b"a"], NEVER_NS))
    clock.advance(100)
    assert run_now(store.fetch([b"a"], NEVER_NS)) == [b"1"]


def test_lmdb_store_replaced_is_read_anew(tmp_path: Path, path: Path, store: LmdbStore) -> None:
    """Another store moved to its place is what is served from the next batch on."""
    write(tmp_path / "other", {b"a": b"other"})
    path.rename(tmp_path / "old")
    (tmp_path / "other").rename(path)
    assert run_now(store.fetch([b"a"], NEVER_NS)) == [b"other"]


def test_lmdb_store_cut_short_does_not_kill_the_process(tmp_path: Path) -> None:
    """A file cut short in place gives errors, not a bus error."""
    write(tmp_path / "store", {b"%d" % index: b"x" * 500 for index in range(1_000)})
    done = subprocess.run(
        [sys.executable, "-c", CUT_SHORT, str(tmp_path / "store")], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["refused"] * 3, "")


def test_lmdb_store_grown_beyond_its_map_is_read_on(tmp_path: Path, clock: ManualClock) -> None:
    """A writer that outgrows the reader's map is followed."""
    path = tmp_path / "store"
    write(path, {b"a": b"small"})
    store = LmdbStore(path, clock, map_bytes=1 << 20)
    run_now(store.open())
    rows = {b"%d" % index: bytes([index]) * 100_000 for index in range(50)}
    write(path, rows)
    assert run_now(store.fetch(list(rows), NEVER_NS)) == list(rows.values())
    assert run_now(store.fetch([b"a"], NEVER_NS)) == [b"small"]
    store.close()


def test_lmdb_store_serves_no_row_of_another_schema(path: Path, store: LmdbStore, clock: ManualClock) -> None:
    """Rows that another version of the view wrote under the same keys are defaults, and counted."""
    codec = RowCodec(Profile.spec)
    good = profile_rows([1])[codec.key(1)]
    write(path, {codec.key(1): good[:4] + b"\0\0\0\0" + good[8:], codec.key(2): good[:-1]})
    (rows,) = run_now(Retrieval([codec], store, clock).read([[1, 2]], 0))
    assert (rows.errors, rows.column("count").tolist()) == (2, [-1, -1])


def test_lmdb_store_closed_refuses(store: LmdbStore) -> None:
    """A closed store does not open itself again."""
    store.close()
    with pytest.raises(StoreError):
        run_now(store.fetch([b"a"], NEVER_NS))


def test_lmdb_writer_grows_its_map(tmp_path: Path) -> None:
    """A full map is doubled until the rows fit."""
    writer = LmdbWriter(tmp_path / "store", map_bytes=1 << 20)
    rows = {b"%d" % index: bytes([index]) * 100_000 for index in range(50)}
    writer.exchange(rows.items(), ())
    assert [writer.get(key) for key in rows] == list(rows.values())
    writer.close()


def test_lmdb_writer_puts_all_or_nothing(tmp_path: Path) -> None:
    """A row that cannot be written takes back the rows before it."""
    writer = LmdbWriter(tmp_path / "store")
    with pytest.raises(StoreError):
        writer.exchange([(b"a", b"1"), (b"k" * 600, b"2")], ())
    assert writer.get(b"a") is None
    writer.close()


def test_run_writes_and_removes_some_hundred_rows_in_a_transaction(tmp_path: Path) -> None:
    """Others wait for the lock meanwhile. By LMDB's own count of transactions; the notes are in the last one."""
    writer = LmdbWriter(tmp_path / "store")
    environment = writer._environment

    def transactions() -> int:
        return environment.info()["last_txnid"]  # type: ignore[no-any-return]

    run = writer.begin_run("Profile")
    rows = [PageRow(b"{c:%04d}" % place, b"gone", b"row") for place in range(4 * TRANSACTION_ROWS_MAX + 1)]
    begin = transactions()
    assert writer.write(run, rows, [(b"note", b"written")]).written == len(rows)
    assert transactions() - begin == 5
    assert writer.get(b"note") == b"written"
    begin = transactions()
    assert writer.remove(run, [each.key for each in rows]) == len(rows)
    assert transactions() - begin == 5
    begin = transactions()
    writer.write(run, (), [(b"note", b"ended")])
    assert transactions() - begin == 1
    later = writer.begin_run("Profile")
    with pytest.raises(LeaseError):
        writer.write(run, rows)
    assert writer.write(later, rows[:1]).written == 1
    writer.close()


def test_lmdb_writer_without_a_place_says_so(tmp_path: Path) -> None:
    """A path that is a file cannot hold a store."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError):
        LmdbWriter(tmp_path / "file")


def test_lmdb_store_is_read_by_many_processes(path: Path, store: LmdbStore) -> None:
    """Readers in other processes neither wait for each other nor for a writer, and a killed one leaves no trace."""
    code = (
        "import sys, signal, os\n"
        "from tailrace.deadline import MonotonicClock\n"
        "from tailrace.features.stores.lmdb import LmdbStore\n"
        "store = LmdbStore(sys.argv[1], MonotonicClock())\n"
        "for step in (store.open(), store.fetch([b'x'], 1 << 62)):\n"
        "    try: step.send(None)\n"
        "    except StopIteration: pass\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    readers = [subprocess.Popen([sys.executable, "-c", code, str(path)]) for _ in range(3)]
    assert [reader.wait() for reader in readers] == [-9] * 3
    write(path, {b"x": b"1"})
    assert run_now(store.fetch([b"x"], NEVER_NS)) == [b"1"]
    assert os.path.exists(path / "lock.mdb")
