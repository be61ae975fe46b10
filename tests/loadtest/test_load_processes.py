"""Server processes: ready when they say so, measured with their descendants, and gone when they are ended."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tailrace.errors import LoadtestError
from tailrace.loadtest.processes import (
    births_of,
    end,
    free_port,
    free_ports,
    is_running,
    kill_left,
    rss_mb,
    start,
    start_of,
    wait_ready,
)

STUBBORN = """\
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print("ready", flush=True)
time.sleep(600)
"""
ANSWERING = """\
import http.server, os, sys
class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/readyz" else 503)
        self.end_headers()
print(sorted(os.sched_getaffinity(0)), os.environ["GIVEN"], os.getcwd(), flush=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Ready).serve_forever()
"""
SLEEPING = [sys.executable, "-c", "import time; time.sleep(600)"]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """End what was started on it after the test."""
    with ExitStack() as stack:
        yield stack


def poll(condition: Callable[[], object], limit_s: float = 20.0) -> None:
    """Wait until a condition is true."""
    end_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.01)


def test_end_leaves_no_descendant(stack: ExitStack, tmp_path: Path) -> None:
    """A server that does not end when asked is killed, and so are its workers, each in a session of its own."""
    log = tmp_path / "log"
    process = start(stack, "stubborn", [sys.executable, "-c", STUBBORN], log, cores=os.sched_getaffinity(0))
    end_s = time.monotonic() + 20
    while "ready" not in log.read_text():
        assert time.monotonic() < end_s
        time.sleep(0.01)
    (worker,) = {pid for pid in process.tree() if pid != process.popen.pid}
    end(process, 0.2)
    while start_of(worker):
        assert time.monotonic() < end_s, "a worker is left"
        time.sleep(0.01)


def test_process_has_the_cores_and_variables_it_is_given(stack: ExitStack, tmp_path: Path) -> None:
    """It is ready once its URL answers 200, has used time and memory, and the stack ends it."""
    core = min(os.sched_getaffinity(0))
    port = free_port()
    process = start(
        stack, "answering", [sys.executable, "-c", ANSWERING, str(port)], tmp_path / "folder" / "log",
        cores={core}, env={"GIVEN": "a variable"}, cwd=tmp_path,
    )  # fmt: skip
    ready_s = wait_ready(process, f"http://127.0.0.1:{port}/readyz")
    assert 0 < ready_s < time.perf_counter() - process.started_s
    assert process.log.read_text().startswith(f"[{core}] a variable {tmp_path}\n")
    assert process.tree() == [process.popen.pid]
    assert process.cpu_s() > 0
    assert rss_mb(process.popen.pid) > 1
    stack.close()
    assert not is_running(process.popen.pid)
    assert process.cpu_s() == 0


def test_server_that_ends_before_it_is_ready_is_an_error_with_its_words(stack: ExitStack, tmp_path: Path) -> None:
    """The error holds the status and the end of the log, and names the log."""
    process = start(stack, "broken", ["bash", "-c", "echo no model; exit 3"], tmp_path / "log")
    with pytest.raises(LoadtestError, match="broken ended with status 3:\nno model") as caught:
        wait_ready(process, f"http://127.0.0.1:{free_port()}/")
    assert caught.value.where == str(tmp_path / "log")


def test_server_that_is_not_ready_in_time_is_an_error(stack: ExitStack, tmp_path: Path) -> None:
    """Where it answers something else than 200 the wait ends too."""
    process = start(stack, "slow", SLEEPING, tmp_path / "log")
    with pytest.raises(LoadtestError, match="slow was not ready within 0 s"):
        wait_ready(process, f"http://127.0.0.1:{free_port()}/", 0.05)


def test_kill_left_spares_another_process_of_the_same_number(stack: ExitStack, tmp_path: Path) -> None:
    """A pid whose process began at another time is another process's."""
    pid = start(stack, "sleeping", SLEEPING, tmp_path / "log").popen.pid
    births = births_of([pid])
    kill_left({pid: "1"})
    kill_left({pid: ""})
    assert is_running(pid)
    kill_left(births)
    poll(lambda: not is_running(pid))


def test_process_that_is_gone_has_no_memory_and_no_start() -> None:
    """What is asked of no process is an error, or nothing."""
    gone = 2**22 + 1  # above the kernel's highest pid
    assert not is_running(gone)
    assert start_of(gone) == ""
    with pytest.raises(LoadtestError, match=f"process {gone} has no resident memory"):
        rss_mb(gone)


def test_free_ports_are_different() -> None:
    """Ports that are asked for together are not the same."""
    assert len(set(free_ports(50))) == 50
