"""One writer a ring: workers of two releases in one slot have one each, and successors go on in what was left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tailrace.monitor.claimed_ring import RINGS_A_SLOT, ClaimedRing
from tailrace.monitor.ring import RingReader, make_ring_fd

WORKER = """
import sys
from tailrace.monitor.claimed_ring import ClaimedRing
name, *fds = sys.argv[1:]
ring = ClaimedRing(tuple(map(int, fds)), 3)
number = 0
for line in sys.stdin:
    for _ in range(int(line)):
        number += 1
        frame = f"{name}:{number}:".encode().ljust(number % 3_000 + 20, name.encode())
        try:
            ring.write(frame)
        except BlockingIOError:
            ring.lose(1)
    print(number, flush=True)
"""


class Worker:
    """A process that writes frames when it is told to."""

    def __init__(self, name: str, fds: list[int]) -> None:
        self.name = name
        command = [sys.executable, "-c", WORKER, name, *map(str, fds)]
        self._process = subprocess.Popen(
            command, pass_fds=fds, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def write(self, count: int) -> int:
        """Have it write so many frames; return how many it has written in all."""
        self.begin(count)
        return self.wait()

    def begin(self, count: int) -> None:
        """Have it begin to write so many frames."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{count}\n")
        self._process.stdin.flush()

    def wait(self) -> int:
        """Wait until it has written them."""
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())

    def kill(self) -> None:
        """End it in whatever it does."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError):
                assert pipe is not None
                pipe.close()


@pytest.fixture
def fds() -> Iterator[list[int]]:
    """Yield the rings of one slot."""
    fds = [make_ring_fd(f"ring-{number}", 1 << 20) for number in range(RINGS_A_SLOT)]
    yield fds
    for fd in fds:
        os.close(fd)


def frames(readers: list[RingReader], *names: str) -> dict[str, list[int]]:
    """Return the numbers of the frames of each worker, all of which must be whole."""
    found: dict[str, list[int]] = {name: [] for name in names}
    for reader in readers:
        for frame in reader.read():
            name, number, _ = frame.decode().split(":", 2)
            assert frame == f"{name}:{number}:".encode().ljust(int(number) % 3_000 + 20, name.encode())
            found[name].append(int(number))
    return found


def test_workers_of_two_releases_in_a_slot_write_side_by_side(fds: list[int]) -> None:
    """At once, each to a ring of its own: no frame is torn, and none is missing."""
    readers = [RingReader(fd) for fd in fds]
    old, new = Worker("a", fds), Worker("b", fds)
    try:
        assert (old.write(1), new.write(1)) == (1, 1)
        for worker in (old, new):
            worker.begin(400)
        assert (old.wait(), new.wait()) == (401, 401)
        assert frames(readers, "a", "b") == {name: list(range(1, 402)) for name in "ab"}
    finally:
        old.kill()
        new.kill()


def test_worker_goes_on_in_the_ring_of_one_that_was_killed(fds: list[int]) -> None:
    """While it writes: the lock ends with the process. A third worker, without a ring, counts what it loses."""
    readers = [RingReader(fd) for fd in fds]
    workers = [Worker(name, fds) for name in "ab"]
    try:
        assert [worker.write(1) for worker in workers] == [1, 1]
        workers.append(third := Worker("c", fds))
        assert third.write(1) == 1
        assert frames(readers, "a", "b", "c") == {"a": [1], "b": [1], "c": []}
        workers[0].begin(1_000_000)
        workers[0].kill()
        frames(readers, "a", "b")
        for reader in readers:
            reader.take_lost()
        assert third.write(2) == 3
        assert frames(readers, "c") == {"c": [2, 3]}
        assert sum(reader.take_lost() for reader in readers) == 1
    finally:
        for worker in workers:
            worker.kill()


def test_ring_that_nobody_has_is_taken_at_once(fds: list[int]) -> None:
    """The first one, and frames say of which slot they are."""
    ring = ClaimedRing(fds, 5)
    assert ring.write(b"one")
    ring.lose(4)
    reader = RingReader(fds[0])
    assert list(reader.read()) == [b"one"]
    assert (reader.take_lost(), ring.slot) == (4, 5)
