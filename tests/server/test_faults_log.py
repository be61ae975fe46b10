"""A log that nobody reads, and tasks that end: serving goes on, or its end is told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from serving import COMMAND, Server, wait_for
from stand_in_supervisor import SupervisorProcess, poll

from tailrace.loadtest.processes import free_port, is_running

PAYMENT: dict[str, Any] = {
    "transaction_id": "t", "customer_id": 1, "terminal_id": "a", "amount": 20.0, "time": "2026-11-02T10:00:00Z",
}  # fmt: skip


def close_reader(reader: BinaryIO, _: int) -> None:
    """Leave the log without a reader."""
    reader.close()


def fill_pipe(_: BinaryIO, write_fd: int) -> None:
    """Leave the log full, its reader asleep."""
    with open(os.open(f"/proc/self/fd/{write_fd}", os.O_WRONLY | os.O_NONBLOCK), "wb", buffering=0) as pipe:
        while pipe.write(b"." * 4_096) is not None:
            pass


def date_of(server: Server) -> str:
    """Return the Date of an answer."""
    return server.ask("payment", PAYMENT).headers["date"]


@pytest.mark.slow
@pytest.mark.parametrize("break_log", [close_reader, fill_pipe])
def test_log_that_is_not_read_stops_nothing(
    tmp_path: Path, pipelines_dir: Path, break_log: Callable[[BinaryIO, int], None]
) -> None:
    """Failing calls get their answers, time goes on, dead and frozen workers are replaced, whoever is told of it."""
    read_fd, write_fd = os.pipe()
    command = [*COMMAND, str(pipelines_dir / "payment.py"), "--port", "0", "--admin-port", "0", "--workers", "2",
               "--store", f"redis://127.0.0.1:{free_port()}", "--heartbeat-s", "0.2", "--frozen-s", "2"]  # fmt: skip
    with open(read_fd, "rb") as reader:
        server = Server(subprocess.Popen(command, stderr=write_fd, start_new_session=True), tmp_path / "log")
        try:
            ready = next(event for line in reader if (event := json.loads(line))["event"] == "ready")
            server.url, server.admin = ready["address"], ready["admin"]
            break_log(reader, write_fd)
            pids = [worker["pid"] for worker in server.workers()]
            assert {server.ask("payment", PAYMENT | {"amount": 6_666.0}).status for _ in range(10)} == {500}
            for number in (signal.SIGKILL, signal.SIGSTOP):
                pid = server.workers()[0]["pid"]
                os.kill(pid, number)
                wait_for(lambda pid=pid: server.workers()[0]["pid"] not in (0, pid), 20)
                wait_for(lambda: server.workers()[0]["state"] == "ready", 20)
            dates = {date_of(server)}
            wait_for(lambda: dates.add(date_of(server)) or len(dates) > 4, 20)
            assert server.workers()[1]["pid"] == pids[1]
            assert server.end() == 0
            assert not [pid for pid in pids if is_running(pid)]
        finally:
            server.end()
            os.close(write_fd)


def test_worker_whose_sweep_ends_is_replaced(tmp_path: Path, pipelines_dir: Path) -> None:
    """A worker that could time nothing out any more says so and goes; its successor takes its place."""
    broken = tmp_path / "worker.py"
    broken.write_text(
        "import sys\nfrom tailrace.server import worker\n\n"
        "async def fail(self):\n    raise RuntimeError('no clock')\n\n"
        "worker.Worker._sweep = fail\nsys.exit(worker.main(sys.argv))\n"
    )
    supervisor = SupervisorProcess(tmp_path, broken, files=(str(pipelines_dir / "log.py"),), workers=1)
    try:
        supervisor.wait_ready()
        poll(lambda: supervisor.workers()[0]["restarts"] >= 2, 30)
        assert "worker 0 cannot go on: RuntimeError('no clock')" in supervisor.stderr
        assert supervisor.stop() == 0
    finally:
        supervisor.end()


def test_supervisor_whose_watch_ends_fails(tmp_path: Path, pipelines_dir: Path) -> None:
    """A supervisor that could replace no worker any more says so and ends, its workers with it."""
    script = (
        "import sys\nfrom tailrace.server.options import ServeOptions\n"
        "from tailrace.server.child import Child\nfrom tailrace.server.supervisor import serve\n\n"
        "async def fail(self):\n    raise RuntimeError('no eyes')\n\n"
        "Child.watch = fail\n"
        "options = ServeOptions(files=(sys.argv[1],), port=0, admin_port=0)\nsys.exit(serve(options))\n"
    )
    command = [sys.executable, "-c", script, str(pipelines_dir / "log.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.endswith("error: the supervisor cannot go on: RuntimeError('no eyes')\n")
