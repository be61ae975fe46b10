"""The supervisor with real processes: serving, replacing, draining, and leaving nothing behind."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from stand_in_supervisor import SupervisorProcess, fetch, poll

from tailrace.loadtest.processes import free_port, is_running

Launch = Callable[..., SupervisorProcess]


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    """Start supervisors that are ended after the test."""
    started: list[SupervisorProcess] = []

    def start(folder: Path = tmp_path, **options: object) -> SupervisorProcess:
        started.append(SupervisorProcess(folder, **options))
        return started[-1]

    yield start
    for supervisor in started:
        supervisor.end()


def requests_counted(supervisor: SupervisorProcess) -> float:
    """Return how many calls the metrics page tells of."""
    _, page = fetch(supervisor.admin_port, "/metrics")
    return sum(
        sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
        if sample.name == "tailrace_requests_total" and sample.labels["pipeline"] == "standin"
    )


def test_supervisor_serves_from_every_worker_and_stops_clean(launch: Launch) -> None:
    """Two workers share one port; SIGTERM ends both with exit code 0 and leaves no process."""
    supervisor = launch(workers=2).wait_ready()
    pids = {worker["pid"] for worker in supervisor.workers()}
    assert len(pids) == 2
    seen: set[int] = set()
    poll(lambda: seen.add(supervisor.ask()) or seen == pids)
    assert supervisor.stop() == 0
    assert not [pid for pid in pids if is_running(pid)]
    assert '"event":"stopped"' in supervisor.stderr


def test_supervisor_replaces_killed_worker(launch: Launch) -> None:
    """A worker killed by SIGKILL has a ready successor in its slot at once, and no connection is refused."""
    supervisor = launch(workers=2).wait_ready()
    victim = supervisor.ready_pid(0)
    os.kill(victim, signal.SIGKILL)
    poll(lambda: not is_running(victim))
    killed_s = time.monotonic()
    successor = 0
    while not successor:
        assert supervisor.ask() != victim
        successor = supervisor.ready_pid(0, other_than=victim)
        assert time.monotonic() - killed_s < 5  # 0.6 s where nothing else runs
    assert supervisor.workers()[0]["restarts"] == 1
    assert supervisor.stop() == 0


@pytest.mark.parametrize(("number", "name"), [(signal.SIGRTMIN + 6, "SIGRTMIN+6"), (signal.SIGABRT, "SIGABRT")])
def test_supervisor_names_any_signal_that_ends_a_worker(launch: Launch, number: int, name: str) -> None:
    """A worker ended by a signal that Python has no name for is replaced like any other, and the log says by which."""
    supervisor = launch(workers=1).wait_ready()
    victim = supervisor.ready_pid(0)
    os.kill(victim, number)
    successor = poll(lambda: supervisor.ready_pid(0, other_than=victim))
    assert supervisor.ask() == successor
    assert f'"cause":"signal {name}"' in supervisor.stderr
    assert supervisor.stop() == 0


def test_supervisor_keeps_pending_connection_for_successor(launch: Launch) -> None:
    """A connection made while the only worker is dead is answered by its successor."""
    supervisor = launch(workers=1).wait_ready()
    victim = supervisor.ready_pid(0)
    os.kill(victim, signal.SIGKILL)
    poll(lambda: not is_running(victim))
    assert supervisor.ask() not in {0, victim}


def test_supervisor_has_sibling_accept_for_dead_slot(launch: Launch, tmp_path: Path) -> None:
    """While a successor cannot start, the sibling answers the connections of both slots."""
    hold = tmp_path / "hold"
    supervisor = launch(workers=2, files=("serve", str(hold))).wait_ready()
    victim, sibling = (supervisor.ready_pid(slot) for slot in (0, 1))
    hold.touch()
    os.kill(victim, signal.SIGKILL)
    poll(lambda: supervisor.workers()[0]["adopted_by"] == 1)
    assert {supervisor.ask(timeout_s=3) for _ in range(40)} == {sibling}
    hold.unlink()
    successor = poll(lambda: supervisor.ready_pid(0, other_than=victim))
    assert supervisor.workers()[0]["adopted_by"] is None
    poll(lambda: supervisor.ask() == successor)


def test_supervisor_drains_call_in_flight(launch: Launch) -> None:
    """A call in flight at SIGTERM is answered before its worker leaves."""
    supervisor = launch(workers=1).wait_ready()
    pid = supervisor.ready_pid(0)
    with socket.create_connection(("127.0.0.1", supervisor.port)) as held:
        held.sendall(b"GET /held HTTP/1.1\r\n\r\n")
        supervisor.ask()  # the connection before it has been accepted by now
        assert supervisor.stop() == 0
        assert held.recv(4096).endswith(str(pid).encode())
    assert not is_running(pid)


def test_supervisor_kills_worker_that_drains_too_long(launch: Launch) -> None:
    """A call that never ends holds the exit up for `drain_s`, not longer."""
    supervisor = launch(workers=1, drain_s=0.3).wait_ready()
    pid = supervisor.ready_pid(0)
    with socket.create_connection(("127.0.0.1", supervisor.port)) as stuck:
        stuck.sendall(b"GET /stuck HTTP/1.1\r\n\r\n")
        supervisor.ask()
        assert supervisor.stop(signal.SIGINT) == 0
    assert not is_running(pid)
    assert "drain time is over" in supervisor.stderr


def test_supervisor_refuses_connections_while_a_call_is_in_flight(launch: Launch) -> None:
    """From the signal on new connections are refused, though a call keeps its worker for longer."""
    supervisor = launch(workers=2, drain_s=20).wait_ready()
    with socket.create_connection(("127.0.0.1", supervisor.port)) as stuck:
        stuck.sendall(b"GET /stuck HTTP/1.1\r\n\r\n")
        pids = {supervisor.ask() for _ in range(20)}  # the connection before them has been accepted by now
        supervisor.process.send_signal(signal.SIGTERM)
        poll(lambda: refuses(supervisor.port))
        assert any(is_running(pid) for pid in pids)
        assert all(refuses(supervisor.port) for _ in range(20))
        assert supervisor.stop() == 0


def refuses(port: int) -> bool:
    """Return whether a connection is refused."""
    with socket.socket() as client:
        client.settimeout(5)
        try:
            client.connect(("127.0.0.1", port))
        except ConnectionRefusedError:
            return True
        return False


def test_supervisor_killed_takes_its_workers_along(launch: Launch) -> None:
    """Workers whose supervisor was killed see the end of their channel and exit."""
    supervisor = launch(workers=2).wait_ready()
    pids = [worker["pid"] for worker in supervisor.workers()]
    supervisor.process.kill()
    supervisor.wait_exit()
    poll(lambda: not any(is_running(pid) for pid in pids))


def test_second_server_is_refused_while_the_first_one_loads(launch: Launch, tmp_path: Path) -> None:
    """A port belongs to the server that took it first, also before its workers listen: it shares no traffic."""
    hold = tmp_path / "hold"
    hold.touch()
    port = free_port()
    first = launch(workers=1, port=port, files=("serve", str(hold)))
    poll(lambda: '"event":"starting"' in first.stderr)
    (tmp_path / "second").mkdir()
    second = launch(folder=tmp_path / "second", workers=1, port=port)
    assert second.wait_exit() == 1
    assert "Address already in use" in second.stderr
    assert f"127.0.0.1:{port}" in second.stderr
    hold.unlink()
    first.wait_ready()
    assert {first.ask() for _ in range(20)} == {first.ready_pid(0)}


def test_one_of_servers_that_start_at_once_gets_the_port(launch: Launch, tmp_path: Path) -> None:
    """Of several that want one port at the same moment exactly one serves."""
    port = free_port()
    servers = []
    for number in range(4):
        folder = tmp_path / str(number)
        folder.mkdir()
        servers.append(launch(folder=folder, workers=1, port=port))
    poll(lambda: sum(server.process.poll() is not None for server in servers) == 3)
    (winner,) = [server for server in servers if server.process.poll() is None]
    winner.wait_ready()
    assert {server.process.returncode for server in servers} - {None} == {1}
    assert {winner.ask() for _ in range(20)} == {winner.ready_pid(0)}


@pytest.mark.parametrize(
    ("behaviour", "text"),
    [("fail", "error: pipeline.py:3: no such model\n    next: package one"), ("crash", "ended with exit code 3")],
)
def test_supervisor_exits_with_error_of_failed_start(launch: Launch, behaviour: str, text: str) -> None:
    """A worker that cannot start ends the supervisor with exit code 1 and its words, without trying again."""
    supervisor = launch(workers=2, files=(behaviour,))
    assert supervisor.wait_exit() == 1
    assert supervisor.stderr.count(text) == 1


def test_supervisor_replaces_frozen_worker(launch: Launch) -> None:
    """A worker that is stopped and says nothing any more is killed and replaced."""
    supervisor = launch(workers=1, frozen_s=0.5).wait_ready()
    frozen = supervisor.ready_pid(0)
    os.kill(frozen, signal.SIGSTOP)
    successor = poll(lambda: supervisor.ready_pid(0, other_than=frozen))
    assert not is_running(frozen)
    assert supervisor.ask() == successor


def test_supervisor_backs_off_from_worker_that_keeps_dying(launch: Launch) -> None:
    """Each early death of a slot's worker is counted, and the slot is ready again after several."""
    supervisor = launch(workers=1).wait_ready()
    pid = supervisor.ready_pid(0)
    for deaths in (1, 2, 3):
        os.kill(pid, signal.SIGKILL)
        pid = poll(lambda last=pid: supervisor.ready_pid(0, other_than=last))
        assert supervisor.workers()[0]["restarts"] == deaths


def test_supervisor_metrics_grow_across_replacement(launch: Launch) -> None:
    """Counters of a dead worker are not lost: its successor goes on from them."""
    supervisor = launch(workers=1).wait_ready()
    pid = supervisor.ready_pid(0)
    for _ in range(5):
        supervisor.ask()
    poll(lambda: requests_counted(supervisor) == 5)
    os.kill(pid, signal.SIGKILL)
    poll(lambda: supervisor.ready_pid(0, other_than=pid))
    assert requests_counted(supervisor) == 5
    supervisor.ask()
    poll(lambda: requests_counted(supervisor) == 6)
    [pipeline] = supervisor.status()["pipelines"]
    assert (pipeline["name"], pipeline["requests"], pipeline["codes"]) == ("standin", 6, {"200": 6})
