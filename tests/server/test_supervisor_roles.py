"""A second role beside the workers: started, watched, replaced and drained as its role says, without a slot."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from stand_in_observer import Note, read_notes
from stand_in_supervisor import SupervisorProcess, fetch, poll

from tailrace.loadtest.processes import is_running
from tailrace.server.role import BackOff

Launch = Callable[..., SupervisorProcess]


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    """Start supervisors with an observer whose role is changed as said; all is ended after the test."""
    started: list[SupervisorProcess] = []

    def start(role: dict[str, object] | None = None, **options: object) -> SupervisorProcess:
        observer = {"folder": str(tmp_path), **(role or {})}
        started.append(SupervisorProcess(tmp_path, observer=observer, **options))
        return started[-1]

    yield start
    for supervisor in started:
        supervisor.end()


def noted(folder: Path, word: str) -> list[Note]:
    """Return the notes of one word."""
    return [note for note in read_notes(folder) if note.word == word]


def ready_observer(folder: Path, other_than: int = 0) -> int:
    """Return the pid of the last observer that was ready, once it is another than the one named; waits for it."""
    return int(poll(lambda: next((note.pid for note in noted(folder, "ready")[::-1] if note.pid != other_than), 0)))


def test_server_is_ready_without_a_child_that_is_not_awaited(launch: Launch, tmp_path: Path) -> None:
    """While the observer is starting still, the server is ready and answers."""
    (tmp_path / "hold").touch()
    supervisor = launch(workers=1).wait_ready()
    poll(lambda: noted(tmp_path, "start"))
    assert fetch(supervisor.admin_port, "/readyz")[0] == 200
    assert supervisor.ask() == supervisor.ready_pid(0)
    assert not noted(tmp_path, "ready")
    (tmp_path / "hold").unlink()
    ready_observer(tmp_path)
    poll(lambda: '"event":"observer ready"' in supervisor.stderr)
    assert len(supervisor.workers()) == 1


def test_server_is_not_ready_before_a_child_that_is_awaited(launch: Launch, tmp_path: Path) -> None:
    """A role may have the server wait for it; another failed start of it costs nothing but time."""
    (tmp_path / "crash").touch()
    supervisor = launch({"is_awaited": True}, workers=1)
    poll(lambda: len(noted(tmp_path, "start")) > 1 and '"event":"worker ready"' in supervisor.stderr)
    assert '"event":"ready"' not in supervisor.stderr
    (tmp_path / "crash").unlink()
    supervisor.wait_ready()
    assert noted(tmp_path, "ready")
    assert supervisor.stop() == 0


def test_failed_start_of_a_child_that_ends_the_server(launch: Launch, tmp_path: Path) -> None:
    """A role may end the server with its first start, as a worker's does."""
    (tmp_path / "crash").touch()
    supervisor = launch({"ends_server": True}, workers=1)
    assert supervisor.wait_exit() == 1
    assert "error: observer ended with exit code 3 before it was ready" in supervisor.stderr
    assert len(noted(tmp_path, "start")) == 1


def test_death_of_a_child_without_a_slot_costs_no_traffic(launch: Launch, tmp_path: Path) -> None:
    """While the observer is dead the server is ready and every connection is answered; then there is another."""
    supervisor = launch(workers=2).wait_ready()
    pids = {worker["pid"] for worker in supervisor.workers()}
    victim = ready_observer(tmp_path)
    (tmp_path / "hold").touch()
    os.kill(victim, signal.SIGKILL)
    poll(lambda: not is_running(victim))
    for _ in range(20):
        assert supervisor.ask() in pids
    assert fetch(supervisor.admin_port, "/readyz")[0] == 200
    (tmp_path / "hold").unlink()
    assert ready_observer(tmp_path, other_than=victim)
    assert '"event":"observer died"' in supervisor.stderr
    assert [worker["adopted_by"] for worker in supervisor.workers()] == [None, None]
    assert [worker["restarts"] for worker in supervisor.workers()] == [0, 0]
    assert supervisor.stop() == 0


def test_child_that_cannot_start_is_tried_again_later_each_time(launch: Launch, tmp_path: Path) -> None:
    """An observer that ends at each start waits 0.1 s, 0.2 s, 0.4 s; the server is ready meanwhile."""
    (tmp_path / "crash").touch()
    supervisor = launch(workers=1).wait_ready()
    poll(lambda: len(noted(tmp_path, "start")) >= 4)
    starts_s = [note.at_s for note in noted(tmp_path, "start")]
    for wait_s, (earlier_s, later_s) in zip((0.1, 0.2, 0.4), pairwise(starts_s), strict=False):
        assert later_s - earlier_s >= wait_s
    assert fetch(supervisor.admin_port, "/readyz")[0] == 200
    (tmp_path / "crash").unlink()
    ready_observer(tmp_path)
    assert supervisor.stop() == 0


def test_silent_child_is_killed_by_its_own_limit(launch: Launch, tmp_path: Path) -> None:
    """An observer that says nothing for its role's `frozen_s` is killed and replaced, and no worker with it."""
    supervisor = launch({"frozen_s": 0.5}, workers=1, frozen_s=60).wait_ready()
    worker = supervisor.ready_pid(0)
    frozen = ready_observer(tmp_path)
    os.kill(frozen, signal.SIGSTOP)
    assert ready_observer(tmp_path, other_than=frozen)
    assert not is_running(frozen)
    assert '"event":"observer frozen"' in supervisor.stderr
    assert supervisor.ready_pid(0) == worker


def test_child_of_a_later_drain_order_outlives_the_workers(launch: Launch, tmp_path: Path) -> None:
    """While a worker drains the observer goes on, and is replaced if it dies; it drains when no worker is left."""
    supervisor = launch(workers=2, drain_s=20).wait_ready()
    workers = {worker["pid"] for worker in supervisor.workers()}
    first = ready_observer(tmp_path)
    with socket.create_connection(("127.0.0.1", supervisor.port)) as stuck:
        stuck.sendall(b"GET /stuck HTTP/1.1\r\n\r\n")
        supervisor.ask()  # the connection before it has been accepted by now
        supervisor.process.send_signal(signal.SIGTERM)
        poll(lambda: sum(is_running(pid) for pid in workers) == 1)
        os.kill(first, signal.SIGKILL)
        successor = ready_observer(tmp_path, other_than=first)
        assert not noted(tmp_path, "drain")
        (busy,) = (pid for pid in workers if is_running(pid))
        os.kill(busy, signal.SIGKILL)
        assert supervisor.wait_exit() == 0
    assert read_notes(tmp_path)[-1].word == "drain alone"
    assert not is_running(successor)


def test_child_that_drains_too_long_is_killed_by_its_own_limit(launch: Launch, tmp_path: Path) -> None:
    """An observer that does not finish holds the exit up for its role's `drain_s`, not longer."""
    (tmp_path / "stubborn").touch()
    supervisor = launch({"drain_s": 0.3}, workers=1).wait_ready()
    pid = ready_observer(tmp_path)
    assert supervisor.stop() == 0
    assert not is_running(pid)
    assert '"event":"observer killed"' in supervisor.stderr


def test_second_signal_ends_every_child(launch: Launch, tmp_path: Path) -> None:
    """Asked twice to stop, the supervisor waits for neither a worker nor what comes after it."""
    (tmp_path / "stubborn").touch()
    supervisor = launch({"drain_s": 60}, workers=1).wait_ready()
    pid = ready_observer(tmp_path)
    supervisor.process.send_signal(signal.SIGTERM)
    poll(lambda: noted(tmp_path, "drain alone"))
    assert supervisor.stop() == 0
    assert not is_running(pid)


def test_back_off_doubles_up_to_its_most() -> None:
    """The wait doubles from death to death up to its most, and begins anew after a life that was not short."""
    back_off = BackOff(first_s=1, max_s=5, short_life_s=10)
    waits_s = [0.0]
    for _ in range(5):
        waits_s.append(back_off.next_s(waits_s[-1], served_s=9))
    assert waits_s == [0, 1, 2, 4, 5, 5]
    assert back_off.next_s(5, served_s=10) == 1
