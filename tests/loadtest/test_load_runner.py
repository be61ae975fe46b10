"""Whole runs against a real server in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tailrace.deadline import NS_PER_MS, NS_PER_S
from tailrace.errors import LoadtestError
from tailrace.loadtest.plan import LoadPlan
from tailrace.loadtest.processes import children_of
from tailrace.loadtest.runner import LoadProgress, run_load

if TYPE_CHECKING:
    from conftest import RunningServer

BODIES = [json.dumps({"number": number}).encode() for number in range(7)]


@pytest.fixture
def others(server: RunningServer) -> set[int]:
    """Return the processes that were there before: the server, and what other tests of this process have begun."""
    return {server.pid, *children_of(os.getpid())}


def started(others: set[int]) -> list[int]:
    """Return the processes that were begun since."""
    return [pid for pid in children_of(os.getpid()) if pid not in others]


@pytest.mark.parametrize("processes", [1, 2])
def test_run_sends_every_shot_and_keeps_bodies_in_shot_order(server: RunningServer, processes: int) -> None:
    """Shot i sends body i modulo their number; answers come back at their shot, over one process or several."""
    plan = LoadPlan(
        f"{server.url}/echo", BODIES, rate=500, duration_s=1, connections=5, processes=processes, keep_bodies=True
    )
    report = run_load(plan)
    assert report.shots == report.sent == report.answered == 500
    assert report.errors == report.reconnects == 0
    assert report.bodies == [BODIES[shot % len(BODIES)] for shot in range(500)]
    assert (report.record.statuses == 200).all()
    assert (report.record.latencies_ns > 0).all()


def test_run_with_one_connection_pipelines_and_keeps_order(server: RunningServer) -> None:
    """A burst far above what one connection answers in turn is pipelined on it, and each answer finds its shot."""
    plan = LoadPlan(
        f"{server.url}/echo", BODIES, rate=20_000, duration_s=0.1, connections=1, arrival="poisson", keep_bodies=True
    )
    report = run_load(plan)
    assert report.answered == 2_000
    assert report.bodies == [BODIES[shot % len(BODIES)] for shot in range(2_000)]


@pytest.mark.slow  # 20 seconds of load
def test_server_stopped_for_two_seconds_shows_in_the_tail(server: RunningServer) -> None:
    """200 of 2,000 shots fall into a stop of 2 s and wait 2 s to 0 s: the p95 is near 1.0 s, the p99 near 1.8 s."""
    plan = LoadPlan(f"{server.url}/echo", BODIES, rate=100, duration_s=20, connections=8)
    report = run_load(plan, at_second(5, lambda: stop_for(server.pid, 2)))
    assert report.ok is not None
    assert report.ok.count == 2_000
    assert 0.8 <= report.ok.p95_ns / NS_PER_S <= 1.2
    assert 1.6 <= report.ok.p99_ns / NS_PER_S <= 2.0
    assert report.ok.p50_ns < 100 * NS_PER_MS
    assert report.held == 0
    assert report.timeline[5].ok_p99_ns is not None
    assert report.timeline[5].ok_p99_ns > NS_PER_S


def test_shots_without_room_are_held(server: RunningServer) -> None:
    """While a stopped server leaves no room on any connection, what falls due is held, and not the generator's lag."""
    report = run_load(
        LoadPlan(f"{server.url}/echo", rate=200, duration_s=3, connections=2, depth_max=2, budget_ns=2 * NS_PER_S),
        at_second(1, lambda: stop_for(server.pid, 1)),
    )
    assert report.answered == 600
    assert 150 <= report.held <= 220
    assert report.valid, report.reasons


def test_shots_due_while_the_generator_was_stopped_are_its_own_lag(server: RunningServer, others: set[int]) -> None:
    """Of a generator stopped while it had no room only what fell due before is held: the server had room again."""

    def stop_both() -> None:
        os.kill(server.pid, signal.SIGSTOP)
        time.sleep(0.3)  # the fault: no room
        (sender,) = started(others)
        os.kill(sender, signal.SIGSTOP)
        os.kill(server.pid, signal.SIGCONT)
        time.sleep(1)  # the fault: room, and nobody to use it
        os.kill(sender, signal.SIGCONT)

    report = run_load(
        LoadPlan(f"{server.url}/echo", rate=200, duration_s=3, connections=2, depth_max=2, budget_ns=2 * NS_PER_S),
        at_second(1, stop_both),
    )
    assert report.answered == 600
    assert 30 <= report.held <= 100
    assert not report.valid
    assert report.lag is not None
    assert report.lag.p99_ns > NS_PER_S / 2


def at_second(second: float, act: Callable[[], None]) -> Callable[[LoadProgress], None]:
    """Return what acts once, that long after the start of a run."""
    acted: list[float] = []

    def look(progress: LoadProgress) -> None:
        if progress.elapsed_s >= second and not acted:
            acted.append(progress.elapsed_s)
            act()

    return look


def stop_for(pid: int, seconds: float) -> None:
    """Stop a process for a while."""
    os.kill(pid, signal.SIGSTOP)
    time.sleep(seconds)  # the fault itself; the shots are sent by another process
    os.kill(pid, signal.SIGCONT)


def test_broken_connections_are_errors_and_are_replaced(server: RunningServer) -> None:
    """A server that drops each connection at its fifth request loses that one; the run goes on with new connections."""
    report = run_load(LoadPlan(f"{server.url}/break/5", BODIES, rate=100, duration_s=2, connections=4))
    assert report.answered + report.errors == 200
    assert 20 <= report.broken <= 60
    assert report.reconnects >= report.broken - 4
    assert report.unsent == report.unanswered == 0


def test_closing_answers_cost_a_reconnect_and_no_error(server: RunningServer) -> None:
    """A connection that the server announces to close has answered all it was asked."""
    report = run_load(LoadPlan(f"{server.url}/goodbye", rate=20, duration_s=1, connections=20))
    assert report.answered == 20
    assert report.errors == 0
    assert report.reconnects >= 1


def test_chunked_answers_are_counted_as_unreadable(server: RunningServer) -> None:
    """An answer in a framing that is not read is an error, and corrupts no other shot."""
    report = run_load(LoadPlan(f"{server.url}/chunked", rate=30, duration_s=1, connections=30))
    assert report.unreadable == 30
    assert report.answered == 0


def test_shots_without_answer_are_counted_after_the_drain(server: RunningServer) -> None:
    """A server that never answers leaves the shots in flight unanswered, those beyond the depth unsent; no hang."""
    plan = LoadPlan(f"{server.url}/silent", rate=50, duration_s=0.4, connections=2, depth_max=5, drain_s=0.2)
    report = run_load(plan)
    assert report.unanswered == 10
    assert report.unsent == 10
    assert report.ok is None


def test_refusals_are_told_apart_from_accepted_answers(server: RunningServer) -> None:
    """503s have a latency and a rate of their own."""
    report = run_load(LoadPlan(f"{server.url}/alternate", BODIES, rate=200, duration_s=1, connections=4))
    assert report.statuses == {200: 100, 503: 100}
    assert report.ok is not None
    assert report.refused is not None
    assert report.ok.count == report.refused.count == 100
    assert report.refused_per_s == 100


def test_starved_generator_declares_its_run_invalid(server: RunningServer) -> None:
    """No generator keeps its schedule to 50 ns: with a budget of 1 µs, the run does not count and says why."""
    report = run_load(LoadPlan(f"{server.url}/echo", BODIES, rate=200, duration_s=0.5, connections=4, budget_ns=1_000))
    assert not report.valid
    assert "schedule lag" in report.reasons[0]


def test_spinning_generator_sends_every_shot(server: RunningServer) -> None:
    """Without sleeping, the same shots go out."""
    report = run_load(LoadPlan(f"{server.url}/echo", BODIES, rate=200, duration_s=0.5, connections=4, spin=True))
    assert report.answered == 100


def test_progress_is_told_while_sending(server: RunningServer) -> None:
    """The caller hears how many of the shots are sent and answered, never fewer than before."""
    told: list[LoadProgress] = []
    run_load(LoadPlan(f"{server.url}/echo", rate=100, duration_s=1, connections=4, processes=2), told.append)
    assert len(told) >= 5
    assert {progress.shots for progress in told} == {100}
    sent = [progress.sent for progress in told]
    assert sent == sorted(sent)
    assert 0 < sent[-1] <= 100


def test_server_that_is_not_there_is_an_error_at_once(others: set[int]) -> None:
    """Nothing listens: what, where and what next, and no process is left."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        with pytest.raises(LoadtestError, match="connection refused") as caught:
            run_load(LoadPlan(url, rate=10, duration_s=1, connections=2, processes=2))
    assert caught.value.where == url
    assert caught.value.next
    assert started(others) == []


def test_run_that_is_interrupted_leaves_no_process(server: RunningServer, others: set[int]) -> None:
    """An exception in the caller's own code ends the senders, one of them stopped by a signal."""

    def interrupt(progress: LoadProgress) -> None:
        senders = started(others)
        assert len(senders) == 2
        os.kill(senders[0], signal.SIGSTOP)
        raise KeyboardInterrupt

    plan = LoadPlan(f"{server.url}/echo", rate=100, duration_s=60, connections=4, processes=2)
    with pytest.raises(KeyboardInterrupt):
        run_load(plan, interrupt)
    assert started(others) == []


def test_killed_sender_is_an_error(server: RunningServer, others: set[int]) -> None:
    """A sending process that dies ends the run with an error that names it."""

    def kill_sender(progress: LoadProgress) -> None:
        for pid in started(others):
            os.kill(pid, signal.SIGKILL)

    with pytest.raises(LoadtestError, match="sending process ended with exit status -9"):
        run_load(LoadPlan(f"{server.url}/echo", rate=100, duration_s=60, connections=4), kill_sender)


def test_sender_ends_when_its_caller_is_killed(server: RunningServer) -> None:
    """Nothing goes on sending after the process that asked for it is gone."""
    code = (
        "from tailrace.loadtest.plan import LoadPlan; from tailrace.loadtest.runner import run_load;"
        f"plan = LoadPlan('{server.url}/echo', rate=100, duration_s=60, connections=2);"
        "run_load(plan, lambda progress: print(progress, flush=True))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as caller:
        assert caller.stdout is not None
        caller.stdout.readline()
        (sender,) = children_of(caller.pid)
        caller.kill()
        caller.wait()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{sender}").exists() and " Z " not in Path(f"/proc/{sender}/stat").read_text():
        assert time.monotonic() < deadline, "the sender goes on without its caller"
        time.sleep(0.02)
