"""What the writer of one kind of store does beside what every one promises (test_store_conformance.py): its leases."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from page_samples import key_of, page, row
from redis_server import RedisServer

from tailrace.errors import LeaseError, StoreError
from tailrace.features.stores.dynamodb_table import DynamoTable
from tailrace.features.stores.dynamodb_transaction import Action, TransactionWriter, put
from tailrace.features.stores.lease import FileLease, Lease
from tailrace.features.stores.lmdb_writer import LmdbWriter
from tailrace.features.stores.memory import MemoryWriter
from tailrace.features.stores.opening import open_writer
from tailrace.features.stores.redis_writer import RedisWriter

TIMES = st.integers(-(2**63), 2**63 - 1) | st.integers(-2, 2) | st.integers(2**32 - 2, 2**32 + 2)
HOLD = """
import sys
from tailrace.features.stores.opening import open_writer
lease = open_writer(sys.argv[1]).lease("Profile")
print(lease.holder.who, flush=True)
sys.stdin.read()
"""


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
    assert redis.get(key_of("k")) == memory.get(key_of("k"))
    redis.close()


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


@pytest.mark.parametrize(
    ("number", "way"), [(errno.EBADF, "or run as its owner"), (errno.ENOLCK, "a file system that has locks")]
)
def test_lease_file_that_cannot_be_locked_says_so(
    number: int, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS locks no file that is open only to read (EBADF), others have no locks: neither means that a run holds it."""

    def flock(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(StoreError, match=f"the lease cannot be taken: {os.strerror(number)}") as caught:
        FileLease(tmp_path, "Profile")
    assert way in str(caught.value)


@pytest.mark.parametrize("reason", ["TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded"])
def test_dynamodb_transaction_that_is_put_off_is_sent_again(reason: str) -> None:
    """Another one over the same items, or too many at once: neither fails the write."""
    exceptions = pytest.importorskip("botocore.exceptions")

    class Busy:
        calls = 0

        def transact_write_items(self, TransactItems: list[Action]) -> None:  # noqa: N803 - as boto3 names it
            self.calls += 1
            if self.calls < 3:
                reasons = [{"Code": "None"}, {"Code": reason}]
                answer = {"Error": {"Code": "TransactionCanceledException"}, "CancellationReasons": reasons}
                raise exceptions.ClientError(answer, "TransactWriteItems")

    table = DynamoTable.parse("dynamodb://features?region=eu-west-1")
    client = Busy()
    actions = [put(table, b"a", b"1"), put(table, b"b", b"2")]
    assert TransactionWriter(table, client).write(actions) == []
    assert client.calls == 3
