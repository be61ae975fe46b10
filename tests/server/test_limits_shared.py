"""Buckets that the workers of a server share: one table, tokens lent a few at a time, a lock that nobody waits for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from http_server import RawClient, post, wait_for
from serving import fetch, serving

from tailrace.deadline import Clock
from tailrace.monitor.shared import make_block_fd
from tailrace.request.limit import Limit
from tailrace.server.key_file import changing, make_key
from tailrace.server.limiting.bucket import Bucket
from tailrace.server.limiting.host_table import PROBES_MAX, RECORD_CELLS, RECORDS, HostAccount, HostTable
from tailrace.testing import ManualClock

SLOW = Limit(rate="10/s", burst=5)
FAST = Limit(rate="20000/s", burst=2_000)

WORKER = """
import json, sys, time
from tailrace.deadline import MonotonicClock
from tailrace.request.limit import Limit
from tailrace.server.limiting.bucket import Bucket
from tailrace.server.limiting.host_table import HostAccount, HostTable
bucket = Bucket(HostAccount("key", Limit(rate="20000/s", burst=2_000), HostTable(int(sys.argv[1])), MonotonicClock()))
print("ready", flush=True)
sys.stdin.readline()
taken, began_ns = 0, time.monotonic_ns()
while time.monotonic_ns() < began_ns + 300_000_000:
    taken += bucket.take()
print(json.dumps([taken, began_ns, time.monotonic_ns()]))
"""
HOLDER = """
import fcntl, sys
fcntl.lockf(int(sys.argv[1]), fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def fd() -> Iterator[int]:
    """Return the file of a table."""
    fd = make_block_fd("limits")
    yield fd
    os.close(fd)


def account_of(fd: int, clock: Clock, limit: Limit = SLOW, name: str = "key") -> Bucket:
    """Return a worker's bucket of a limit."""
    return Bucket(HostAccount(name, limit, HostTable(fd), clock))


def take(bucket: Bucket, most: int = 100_000) -> int:
    """Take tokens as requests do until there are none; return how many there were."""
    for taken in range(most):
        if not bucket.take():
            return taken
    return most


def start(program: str, fd: int) -> subprocess.Popen[str]:
    """Start a process that has the table, and wait until it says a word."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(fd)], pass_fds=(fd,), text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline()
    return process


def test_workers_have_one_bucket_together(fd: int) -> None:
    """Whoever asks gets what is there, and all together no more than one bucket has; one alone gets all of it."""
    clock = ManualClock(now_ns=10**15)
    one, two = account_of(fd, clock), account_of(fd, clock)
    assert take(one, 3) + take(two) == 5
    assert take(one) == 0
    clock.advance(300)
    assert take(two) == 3
    clock.advance(10_000)
    assert take(one) == 5
    assert two.left() == (0, 100_000_000)


def test_limits_are_apart(fd: int) -> None:
    """One limit's tokens are no other's."""
    clock = ManualClock(now_ns=10**15)
    assert [take(account_of(fd, clock, name=f"key{number}")) for number in range(200)] == [5] * 200


def test_fast_limit_is_lent_in_parts_that_come_back(fd: int) -> None:
    """Where the rate is high a worker takes some at once, so it seldom asks; what it does not take, others get."""
    clock = ManualClock(now_ns=10**15)
    one, two = account_of(fd, clock, FAST), account_of(fd, clock, FAST)
    assert take(one, 1) == 1
    assert one.tokens == 99
    assert take(two) == 1_900
    one.look()
    one.look()
    assert one.tokens == 0
    assert take(two) == 0  # it was told when there would be one, and asks nobody before
    clock.advance(0.05)
    assert take(two) == 100


def test_array_is_owed_by_all_workers(fd: int) -> None:
    """What one worker took beyond what there was, the others wait for."""
    clock = ManualClock(now_ns=10**15)
    one, two = account_of(fd, clock), account_of(fd, clock)
    assert take(one) == 5
    one.charge(3)
    clock.advance(399)
    assert take(two) == 0
    clock.advance(1)
    assert take(two) == 1


def test_record_of_a_full_bucket_is_free(fd: int) -> None:
    """A bucket that is full says nothing: its place is another's; where all places near it are taken, workers lend."""
    clock = ManualClock(now_ns=10**15)
    table, bucket = HostTable(fd), account_of(fd, clock)
    name = bucket._lender._name  # type: ignore[attr-defined]
    first = (name[0] % RECORDS) * RECORD_CELLS
    for probe in range(PROBES_MAX):
        at = (first + probe * RECORD_CELLS) % len(table.cells)
        table.cells[at], table.cells[at + 1], table.cells[at + 2] = 7, probe, clock.now_ns() + 10**9
    assert take(bucket) == 5  # on its own account
    clock.advance(1_500)
    other = account_of(fd, clock)
    assert take(other) == 5
    assert (table.cells[first], table.cells[first + 1]) == name
    assert take(bucket) == 0


def test_processes_together_get_what_the_rate_allows(fd: int) -> None:
    """Two processes that ask as fast as they can get the burst and the rate: no token twice, and nearly none lost."""
    workers = [start(WORKER, fd) for _ in range(2)]
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    found = [json.loads(worker.communicate()[0]) for worker in workers]
    span_s = (max(end for _, _, end in found) - min(begin for _, begin, _ in found)) / 1e9
    allowed = FAST.tokens_max + span_s * 20_000
    taken = sum(each[0] for each in found)
    assert taken <= allowed + 400  # of one that is stopped with the lock in hand, the other lends alone, and settles
    assert taken >= 0.5 * (FAST.tokens_max + 0.3 * 20_000)


def test_lock_of_a_stopped_worker_holds_nobody_up(fd: int) -> None:
    """While a worker that is stopped has the lock, others lend alone, and settle it once they have it again."""
    clock = ManualClock(now_ns=10**15)
    bucket, sibling = account_of(fd, clock), account_of(fd, clock)
    holder = start(HOLDER, fd)
    os.kill(holder.pid, signal.SIGSTOP)
    try:
        began_s = time.monotonic()
        assert take(bucket) == 5
        assert take(bucket) == 0
        assert time.monotonic() - began_s < 1.0
        bucket.charge(2)
    finally:
        holder.kill()
        holder.communicate()
    assert take(bucket) == 0  # five and two are owed to the table
    assert take(sibling) == 0
    clock.advance(700)
    assert take(sibling) == 5


PIPELINE = """
import tailrace as tr

class Payment(tr.Request):
    amount: float

class Decision(tr.Response):
    score: float

class Rules:
    def predict(self, feeds):
        return feeds["features"][:, 0]

pay = tr.Pipeline(name="pay", request=Payment, response=Decision, features=[Payment.amount],
                  model=tr.PythonModel("own", Rules), budget=tr.Budget("5s"),
                  limit=tr.Limit(rate="600/m", burst=300))
"""


@pytest.mark.slow
def test_workers_of_a_server_share_a_key_and_outlive_each_other(tmp_path: Path) -> None:
    """Two workers give a key its burst once, not twice; a worker that is killed and replaced gives it no second one."""
    file, pipeline = tmp_path / "keys.json", tmp_path / "pipeline.py"
    pipeline.write_text(PIPELINE)
    secret, key = make_key("one", ["pipelines/pay"], limit=Limit(rate="60/m", burst=100))
    with changing(file, create=True) as known:
        known.append(key)
    request = post('{"amount": 1.0}', f"X-API-Key: {secret}", path="/v1/pipelines/pay/predict")
    with serving(tmp_path / "log", pipeline, "--workers", "2", "--keys", str(file)) as server:
        host, _, port = server.url.removeprefix("http://").partition(":")

        def answered(calls: int) -> int:
            with ExitStack() as stack:
                clients = [stack.enter_context(RawClient((host, int(port)))) for _ in range(16)]
                return sum(clients[n % 16].ask(request).status == 200 for n in range(calls))

        began_s = time.monotonic()
        taken = answered(400)
        assert 100 <= taken <= 101 + (time.monotonic() - began_s)
        os.kill(server.workers()[0]["pid"], signal.SIGKILL)
        wait_for(lambda: [each["restarts"] for each in server.workers()] == [1, 0], "it is replaced")
        wait_for(lambda: {each["state"] for each in server.workers()} == {"ready"}, "it is ready")
        taken += answered(100)
        assert taken <= 101 + (time.monotonic() - began_s)
        page = fetch(f"{server.admin}/metrics")[2].decode()
        assert 'tailrace_rate_limited_total{pipeline="pay",reason="key_rate"}' in page
        status = json.loads(fetch(f"{server.admin}/status")[2])
        assert status["pipelines"][0]["rate_limited"]["key_rate"] >= 1
