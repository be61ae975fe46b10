"""The conformance suite of the writers: leases, runs, and rows that never go back, the same in every store."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis_server import RedisServer

from tailrace.errors import LeaseError, StoreError
from tailrace.features.row_layout import EVENT_BYTE, HEADER_BYTES, WRITTEN_BYTE
from tailrace.features.stores.lease import FileLease, Lease
from tailrace.features.stores.lmdb_writer import LmdbWriter
from tailrace.features.stores.memory import MemoryWriter
from tailrace.features.stores.opening import open_writer
from tailrace.features.stores.protocol import StoreWriter
from tailrace.features.stores.redis_writer import ROWS_PER_SCRIPT_MAX, RedisWriter
from tailrace.features.stores.runs import PageCounts, PageRow

TIMES = st.integers(-(2**63), 2**63 - 1) | st.integers(-2, 2) | st.integers(2**32 - 2, 2**32 + 2)
HOLD = """
import sys
from tailrace.features.stores.opening import open_writer
lease = open_writer(sys.argv[1]).lease("Profile")
print(lease.holder.who, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def writer(url: str) -> Iterator[StoreWriter]:
    """Yield a writer of an empty store of each kind."""
    writer = open_writer(url)
    yield writer
    writer.close()


def row(event: int, body: bytes = b"body", written: int = 0) -> bytes:
    """Return a packed row of an event time."""
    header = bytearray(HEADER_BYTES)
    header[EVENT_BYTE:WRITTEN_BYTE] = event.to_bytes(8, "little", signed=True)
    header[WRITTEN_BYTE:HEADER_BYTES] = written.to_bytes(8, "little")
    return bytes(header) + body


def page(**rows: bytes) -> list[PageRow]:
    """Return the rows of a page, by key."""
    return [PageRow(key.encode(), b"tombstone of " + key.encode(), value) for key, value in rows.items()]


def test_writer_writes_rows_and_notes(writer: StoreWriter) -> None:
    """All are there afterwards, however many."""
    run = writer.begin_run("Profile")
    rows = page(**{f"k{index}": row(index) for index in range(2 * ROWS_PER_SCRIPT_MAX + 1)})
    assert writer.write(run, rows, [(b"note", b"1")]) == PageCounts(written=len(rows))
    assert [writer.get(each.key) for each in rows] == [each.row for each in rows]
    assert writer.get(b"note") == b"1"


def test_writer_leaves_newer_rows(writer: StoreWriter) -> None:
    """By event time an older row is left out, an equal one overwrites, an unchanged one is not written again."""
    run = writer.begin_run("Profile")
    writer.write(run, page(older=row(5), equal=row(5), newer=row(5), same=row(5, written=1)))
    rows = page(older=row(4), equal=row(5, b"other"), newer=row(6), same=row(5, written=2), new=row(-1))
    assert writer.write(run, rows, newer_only=True) == PageCounts(written=3, unchanged=1, older=1)
    found = {name: writer.get(name.encode()) for name in ("older", "equal", "newer", "same", "new")}
    assert found == {
        "older": row(5), "equal": row(5, b"other"), "newer": row(6), "same": row(5, written=1), "new": row(-1),
    }  # fmt: skip
    assert writer.write(run, page(newer=row(1))) == PageCounts(written=1), "without newer_only any time overwrites"


def test_writer_overwrites_what_is_no_row(writer: StoreWriter) -> None:
    """A value that is cut short has no time that could be newer."""
    writer.exchange([(b"k", b"short")], ())
    assert writer.write(writer.begin_run("Profile"), page(k=row(1)), newer_only=True).written == 1


@pytest.fixture(scope="module")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the URL of a Redis for many examples."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server.url
    server.kill()


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stored=TIMES, given_time=TIMES, body=st.sampled_from([b"", b"body"]))
def test_redis_script_compares_times_as_python_does(
    shared_redis: str, stored: int, given_time: int, body: bytes
) -> None:
    """Every int64 is ordered right by the halves that the script compares."""
    redis, memory = RedisWriter(shared_redis), MemoryWriter({})
    counts = []
    for writer in (redis, memory):
        run = writer.begin_run("Profile")
        writer.write(run, page(k=row(stored)))
        counts.append(writer.write(run, page(k=row(given_time, body)), newer_only=True))
    assert counts[0] == counts[1]
    assert redis.get(b"k") == memory.get(b"k")
    redis.close()


def test_writer_refuses_a_run_that_is_not_the_last(writer: StoreWriter) -> None:
    """Once a later run has begun, an earlier one writes, notes and removes nothing; a run of another view may."""
    first, other = writer.begin_run("Profile"), writer.begin_run("Other")
    writer.write(first, page(k=row(1)))
    second = writer.begin_run("Profile")
    assert second.number == first.number + 1
    with pytest.raises(LeaseError, match=f"run {second.number} has begun since"):
        writer.write(first, page(k=row(9)))
    with pytest.raises(LeaseError):
        writer.write(first, (), [(b"note", b"1")])
    with pytest.raises(LeaseError):
        writer.remove(first, [b"k"])
    assert (writer.get(b"k"), writer.get(b"note")) == (row(1), None)
    assert writer.write(other, page(o=row(1))).written == 1


def test_writer_refuses_a_run_from_before_the_store_was_emptied(writer: StoreWriter) -> None:
    """A number that is given again is not the same run."""
    first = writer.begin_run("Profile")
    writer.exchange((), [first.key])
    with pytest.raises(LeaseError, match="has been emptied"):
        writer.write(first, page(k=row(1)))
    assert writer.begin_run("Profile").number == first.number
    with pytest.raises(LeaseError):
        writer.write(first, page(k=row(1)))
    assert writer.get(b"k") is None


def test_writer_leaves_forgotten_entities_out(writer: StoreWriter) -> None:
    """A tombstone keeps every row of its entity out, until it is gone."""
    run = writer.begin_run("Profile")
    writer.write(run, page(k=row(1), other=row(1)))
    assert writer.exchange([(b"tombstone of k", b"1")], [b"k", b"never there"]) == 1
    assert writer.write(run, page(k=row(2), other=row(2))) == PageCounts(written=1, forgotten=1)
    assert writer.get(b"k") is None
    assert writer.exchange([], [b"tombstone of k"]) == 1
    assert writer.write(run, page(k=row(2))).written == 1


def test_writer_scans_and_removes(writer: StoreWriter) -> None:
    """A scan gives the keys of one beginning and end, also with characters that a pattern would take for others."""
    names = [b"{c:%d}V:1" % index for index in range(25)]
    others = [b"{c:1}V:2", b"{c:1}W:1", b"{d:1}V:1", b"{c:[*?]\\}V:2", b"a", b"z", b"{c:\xff}V:3"]
    writer.exchange([(key, b"x") for key in [*names, *others]], ())
    assert sorted(set(writer.scan(b"{c:", b"}V:1"))) == sorted(names)
    assert set(writer.scan(b"{c:[*?]", b"")) == {b"{c:[*?]\\}V:2"}
    assert list(writer.scan(b"none", b"")) == []
    run = writer.begin_run("Profile")
    assert writer.remove(run, [*names, b"never there"]) == len(names)
    assert list(writer.scan(b"{c:", b"}V:1")) == []
    assert all(writer.get(key) == b"x" for key in others)


def test_lmdb_scan_goes_on_over_many_transactions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys removed on the way, and the end of a step on the last key, lose none and repeat none."""
    monkeypatch.setattr("tailrace.features.stores.lmdb_writer.SCAN_KEYS", 4)
    writer = LmdbWriter(tmp_path / "store")
    keys = [b"{c:%02d}V" % index for index in range(20)]
    writer.exchange([(key, b"x") for key in keys] + [(b"{d:1}V", b"x")], ())
    found = []
    for key in writer.scan(b"{c:", b"}V"):
        found.append(key)
        writer.exchange((), [key])
    assert found == keys
    writer.close()


def test_lease_is_held_by_one(url: str) -> None:
    """A second run is told who holds it and since when; another view is free, and so is this one afterwards."""
    one, other = open_writer(url), open_writer(url) if not url.startswith("lmdb:") else None
    lease = one.lease("Profile")
    second = other or one  # LMDB's files may be opened only once by a process
    with pytest.raises(
        LeaseError, match=f"being written by {lease.holder.who} since {lease.holder.since[:10]}"
    ) as held:
        second.lease("Profile")
    assert "--wait" in held.value.next
    second.lease("Other").close()
    lease.check()
    lease.close()
    second.lease("Profile").close()
    one.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_lease_of_a_killed_process_ends_with_it(tmp_path: Path, number: int) -> None:
    """The kernel gives the file's lock back, whatever became of its holder."""
    url = f"lmdb:{tmp_path / 'store'}"
    writer = open_writer(url)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        who = process.stdout.readline().strip()
        assert who.endswith(f":{process.pid}")
        with pytest.raises(LeaseError, match=who):
            writer.lease("Profile")
        process.send_signal(number)
        process.wait()
        writer.lease("Profile").close()
    writer.close()


AS_A_USER = """
import os, sys
from pathlib import Path
from tailrace.errors import LeaseError, StoreError
from tailrace.features.stores.lease import FileLease
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
try:
    FileLease(sys.argv[1], "Profile").close()
    print("had")
except (LeaseError, StoreError) as error:
    print(error)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a file of another user's and become that user")
def test_lease_file_of_another_user_is_locked_if_it_can_be_read() -> None:
    """A run by root leaves its file to the service user's runs; one that cannot be read is told with its owner."""
    with tempfile.TemporaryDirectory() as folder:  # pytest's own cannot be entered by others
        os.chown(folder, 65534, 65534)

        def tell_as_a_user() -> str:
            done = subprocess.run([sys.executable, "-c", AS_A_USER, folder], capture_output=True, text=True, check=True)
            return done.stdout

        file = Path(folder, "Profile.lease")
        lease = FileLease(folder, "Profile")
        file.chmod(0o444)
        assert f"is being written by {lease.holder.who} since" in tell_as_a_user()
        lease.close()
        assert tell_as_a_user() == "had\n"
        file.chmod(0o400)
        told = tell_as_a_user()
        assert f"{file}: the lease cannot be taken: Permission denied; the file is of root (uid 0)" in told
        assert "remove the file while no run writes the view" in told


def test_redis_lease_is_renewed_while_its_holder_lives(redis_server: RedisServer) -> None:
    """It outlives its own time several times over."""
    writer = RedisWriter(redis_server.url, lease_ms=1_500)
    lease = writer.lease("Profile")
    end_s = time.monotonic() + 4.0
    while time.monotonic() < end_s:
        with pytest.raises(LeaseError):
            RedisWriter(redis_server.url).lease("Profile")
        time.sleep(0.05)
    lease.check()
    lease.close()
    assert writer.get(b"tailrace:lease:Profile") is None


def test_redis_lease_of_a_killed_process_ends_by_itself(redis_server: RedisServer) -> None:
    """Nobody must remove it by hand."""
    code = HOLD.replace("open_writer(sys.argv[1])", "RedisWriter(sys.argv[1], lease_ms=500)").replace(
        "stores.opening import open_writer", "stores.redis_writer import RedisWriter"
    )
    writer = RedisWriter(redis_server.url)
    with subprocess.Popen(
        [sys.executable, "-c", code, redis_server.url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(LeaseError):
            writer.lease("Profile")
        process.kill()
    wait_for(lambda: writer.get(b"tailrace:lease:Profile") is None)
    writer.lease("Profile").close()


def test_redis_lease_that_another_has_is_not_taken_back(redis_server: RedisServer) -> None:
    """Whoever lost it is told so, and its release leaves the second's alone."""
    first, second = RedisWriter(redis_server.url, lease_ms=300), RedisWriter(redis_server.url)
    lease = first.lease("Profile")
    second.exchange((), [b"tailrace:lease:Profile"])
    second.exchange([(b"tailrace:lease:Profile", b"another's")], ())
    wait_for(lambda: is_lost(lease))
    lease.close()
    assert second.get(b"tailrace:lease:Profile") == b"another's"


def test_redis_lease_that_nobody_has_is_taken_back(redis_server: RedisServer) -> None:
    """A Redis that was emptied, or kept its holder from renewing, gives it to the holder again."""
    first, second = RedisWriter(redis_server.url, lease_ms=300), RedisWriter(redis_server.url)
    lease = first.lease("Profile")
    second.exchange((), [b"tailrace:lease:Profile"])
    wait_for(lambda: second.get(b"tailrace:lease:Profile"))
    assert not is_lost(lease)
    lease.close()


def is_lost(lease: Lease) -> bool:
    """Return whether a lease is known to be another's."""
    try:
        lease.check()
    except LeaseError:
        return True
    return False


def wait_for(condition: Callable[[], object], limit_s: float = 10.0) -> None:
    """Wait until a condition holds."""
    end_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.02)


def test_lmdb_lease_where_no_file_can_be_made_says_so(tmp_path: Path) -> None:
    """A name that the file system does not take is an error of the store."""
    writer = LmdbWriter(tmp_path / "store")
    with pytest.raises(StoreError, match="the lease cannot be taken"):
        writer.lease("V" * 300)
    writer.close()


class Overtaken:
    """Adds one to a number that another sets in between, the first time that it is asked."""

    keys = (b"{c:1}V",)
    tombstones = (b"{c:1}:forgotten",)

    def __init__(self, other: StoreWriter, value: bytes) -> None:
        self._others = [(other, value)]

    def values(
        self, places: Sequence[int], before: Sequence[bytes | None], forgotten: Sequence[bool]
    ) -> list[bytes | None]:
        """Return the next number, of a value that is old by then."""
        for other, value in self._others:
            other.exchange([(self.keys[0], value)], ())
        self._others = []
        return [b"%d" % (int(before[0] or 0) + 1)]


@pytest.mark.parametrize("value", [b"70", b"8", b"712345", b""])
def test_redis_update_that_is_overtaken_is_made_again(redis_server: RedisServer, value: bytes) -> None:
    """Also where the value in between begins as the one before, and only got longer or shorter."""
    one, other = RedisWriter(redis_server.url), RedisWriter(redis_server.url)
    other.exchange([(b"{c:1}V", b"7")], ())
    one.update(Overtaken(other, value))
    assert one.get(b"{c:1}V") == b"%d" % (int(value or 0) + 1)
