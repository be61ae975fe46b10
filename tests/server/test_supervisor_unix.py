"""The socket at a path with real processes: shared by the workers, outliving each, handed on to another server."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from stand_in_supervisor import SupervisorProcess, poll
from unix_client import Asker, ask_unix, connect_unix

from tailrace.loadtest.processes import is_running

Launch = Callable[..., SupervisorProcess]


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    """Start supervisors on one socket, each with a folder of its own, that are ended after the test."""
    started: list[SupervisorProcess] = []

    def start(**options: Any) -> SupervisorProcess:
        place = tmp_path / str(len(started))
        place.mkdir()
        started.append(SupervisorProcess(place, unix=str(tmp_path / "s"), **options))
        return started[-1]

    yield start
    for supervisor in started:
        supervisor.end()


def test_socket_is_shared_by_the_workers_and_outlives_one(launch: Launch, tmp_path: Path) -> None:
    """The workers take turns on it; one that is killed costs no connection but its own, its successor has it too."""
    supervisor = launch(workers=2).wait_ready()
    first, second = (worker["pid"] for worker in supervisor.workers())
    poll(lambda: ask_unix(tmp_path / "s") == first)  # while a core is busy, one may take several in a row
    poll(lambda: ask_unix(tmp_path / "s") == second)
    os.kill(first, signal.SIGKILL)
    successor = poll(lambda: supervisor.ready_pid(0, other_than=first))
    poll(lambda: ask_unix(tmp_path / "s") == successor)
    assert supervisor.stop() == 0
    assert not (tmp_path / "s").exists()


@pytest.mark.slow
def test_connections_wait_for_the_successor_of_the_only_worker(launch: Launch, tmp_path: Path) -> None:
    """While no worker is there, who connects waits, and is answered."""
    supervisor = launch(workers=1).wait_ready()
    (worker,) = supervisor.workers()
    os.kill(worker["pid"], signal.SIGKILL)
    poll(lambda: not is_running(worker["pid"]))  # one that dies may still take a connection along
    assert ask_unix(tmp_path / "s") not in (0, worker["pid"])
    supervisor.workers()


def test_restart_side_by_side_loses_no_request(launch: Launch, tmp_path: Path) -> None:
    """A new server takes the path over while the old one serves; all who ask meanwhile are answered by either."""
    old = launch(workers=2).wait_ready()
    old_pids = {worker["pid"] for worker in old.workers()}
    with Asker(tmp_path / "s") as one, Asker(tmp_path / "s") as other:
        poll(lambda: one.pids and other.pids)
        new = launch(workers=2, unix_takeover=True).wait_ready()
        new_pids = {worker["pid"] for worker in new.workers()}
        assert old.stop() == 0
        poll(lambda: one.pids[-1] in new_pids and other.pids[-1] in new_pids)
    assert not [*one.failures, *other.failures]
    assert {*one.pids, *other.pids} <= old_pids | new_pids
    assert ask_unix(tmp_path / "s") in new_pids


@pytest.mark.slow
def test_second_server_is_refused_while_the_first_answers(launch: Launch, tmp_path: Path) -> None:
    """Without --unix-takeover it ends with an error, and the first one goes on; once that is killed, it may start."""
    first = launch(workers=1).wait_ready()
    second = launch(workers=1)
    assert second.wait_exit() == 1
    assert "another server answers on the socket" in second.stderr
    connect_unix(tmp_path / "s").close()
    first.end()  # killed: its file stays
    assert (tmp_path / "s").exists()
    third = launch(workers=1).wait_ready()
    assert ask_unix(tmp_path / "s") == third.workers()[0]["pid"]


@pytest.mark.slow
def test_server_that_finds_the_path_taken_when_it_is_ready_ends(launch: Launch, tmp_path: Path) -> None:
    """It serves on no port either, and says why."""
    hold = tmp_path / "hold"
    hold.touch()
    late = launch(workers=1, files=("serve", str(hold)))
    poll(lambda: '"event":"starting"' in late.stderr)
    first = launch(workers=1).wait_ready()
    hold.unlink()
    assert late.wait_exit() == 1
    assert "another server answers on the socket" in late.stderr
    assert ask_unix(tmp_path / "s") == first.workers()[0]["pid"]


@pytest.mark.slow
def test_draining_server_answers_what_is_in_flight(launch: Launch, tmp_path: Path) -> None:
    """Who was accepted is answered, though the socket is gone."""
    supervisor = launch(workers=1).wait_ready()
    with connect_unix(tmp_path / "s") as sock:
        sock.sendall(b"GET /held HTTP/1.1\r\nHost: a\r\n\r\n")
        ask_unix(tmp_path / "s")
        assert supervisor.stop() == 0
        assert sock.recv(65_536).startswith(b"HTTP/1.1 200")
