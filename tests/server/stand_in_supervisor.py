"""A real supervisor in a process of its own, with stand-in workers: the script, and a handle on it."""

from __future__ import annotations

import http.client
import json
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
from stand_in_observer import observer

from tailrace.loadtest.processes import births_of, children_of, kill_left
from tailrace.release.pinned import Pin
from tailrace.server.options import ServeOptions
from tailrace.server.supervisor import Addresses, Supervisor

WORKER = Path(__file__).with_name("stand_in_worker.py")


def poll(condition: Callable[[], Any], limit_s: float = 10.0) -> Any:
    """Return the condition's first true value. Raises AssertionError where there is none in time."""
    end_s = time.monotonic() + limit_s
    while time.monotonic() < end_s:
        if value := condition():
            return value
        time.sleep(0.01)
    raise AssertionError(f"not true within {limit_s} s: {condition}")


def fetch(port: int, path: str, timeout_s: float = 10.0, **options: Any) -> tuple[int, bytes]:
    """Return status and body of one GET (or `method`) on a new connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        connection.request(options.get("method", "GET"), path, headers=options.get("headers", {}))
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


class SupervisorProcess:
    """A running supervisor; every process it started is noted and ended at `end`.

    observer: the arguments of `stand_in_observer.observer`, where there is to be one.
    """

    def __init__(
        self, folder: Path, worker: Path = WORKER, *, observer: dict[str, Any] | None = None, **options: Any
    ) -> None:
        settings = {"files": ("serve",), "port": 0, "admin_port": 0, "workers": 2, "heartbeat_s": 0.1, **options}
        self.stderr_path = folder / "stderr"
        with self.stderr_path.open("wb") as stderr:
            self.process = subprocess.Popen(
                [
                    sys.executable, __file__, msgspec.json.encode(ServeOptions(**settings)).decode(), str(worker),
                    *([json.dumps(observer)] if observer is not None else []),
                ],
                stdout=subprocess.PIPE,
                stderr=stderr,
            )  # fmt: skip
        self._births: dict[int, str] = {}
        self.port = self.admin_port = 0

    @property
    def stderr(self) -> str:
        """What it has written to stderr."""
        return self.stderr_path.read_text()

    def wait_ready(self) -> SupervisorProcess:
        """Wait until it announces its addresses."""
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], 20)
        line = self.process.stdout.readline() if readable else b""
        assert line, f"not ready: {self.stderr}"
        _, self.port, _, self.admin_port = json.loads(line)
        self.workers()
        return self

    def ask(self, path: str = "/", **options: Any) -> int:
        """Return the pid of the worker that answers a new connection."""
        status, body = fetch(self.port, path, **options)
        assert status == 200
        return int(body)

    def status(self) -> dict[str, Any]:
        """Return the answer of /status."""
        return json.loads(fetch(self.admin_port, "/status")[1])

    def workers(self) -> list[dict[str, Any]]:
        """Return the workers of /status and note their pids."""
        workers: list[dict[str, Any]] = self.status()["workers"]
        self.note(worker["pid"] for worker in workers if worker["pid"])
        return workers

    def note(self, pids: Iterable[int]) -> None:
        """Note processes that it has started, to be ended with it."""
        self._births = births_of(pids) | self._births

    def ready_pid(self, slot: int, other_than: int = 0) -> int:
        """Return the pid of a slot's ready worker once it is another than the one named, else 0."""
        worker = self.workers()[slot]
        return worker["pid"] if worker["state"] == "ready" and worker["pid"] != other_than else 0

    def wait_exit(self, limit_s: float = 10.0) -> int:
        """Return the exit code."""
        return self.process.wait(limit_s)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        self.workers()
        self.process.send_signal(number)
        return self.wait_exit()

    def end(self) -> None:
        """End what is still running, each by its pid and start."""
        if self.process.poll() is None:
            self.note(children_of(self.process.pid))
            self.process.kill()
            self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        kill_left(self._births)


def announce(addresses: Addresses) -> None:
    """Print the addresses as one line."""
    sys.stdout.write(json.dumps(addresses) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    serve_options = msgspec.json.decode(sys.argv[1], type=ServeOptions)
    supervisor = Supervisor(
        serve_options,
        Pin(root="/nowhere", folder="/nowhere", number=1, files=(), folders=()),
        worker_command=(sys.executable, sys.argv[2]),
        companions=[observer(**json.loads(role)) for role in sys.argv[3:]],
        announce=announce,
    )
    sys.exit(supervisor.run())
