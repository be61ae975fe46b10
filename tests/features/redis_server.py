"""A real redis-server on a free port of the loopback, with its files in a folder of the test's."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import redis

from programs import find_program
from tailrace.loadtest.processes import free_port

READY_S_MAX = 10.0


class RedisServer:
    """Starts, stops, pauses and kills one redis-server, by its own pid."""

    def __init__(self, folder: Path, options: Sequence[str] = (), *, tls: bool = False) -> None:
        self._folder = folder
        self._options = tuple(options)
        self._tls = tls
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"{'rediss' if self._tls else 'redis'}://127.0.0.1:{self.port}/0"

    @property
    def is_running(self) -> bool:
        """Whether it has been started, and not killed since."""
        return self._process is not None

    def start(self) -> None:
        """Start it on its port and wait until it accepts connections."""
        self._process = subprocess.Popen(
            [find_program("redis-server", "redis-server"), *self.arguments()], stdout=subprocess.DEVNULL
        )
        end_s = time.monotonic() + READY_S_MAX
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                assert self._process.poll() is None, "redis-server ended"
                assert time.monotonic() < end_s, "redis-server did not start"
                time.sleep(0.01)

    def arguments(self) -> list[str]:
        """Return what the program is started with."""
        ports = ["--port", "0", "--tls-port", str(self.port)] if self._tls else ["--port", str(self.port)]
        return ["--bind", "127.0.0.1", *ports, "--save", "", "--appendonly", "no", "--dir", str(self._folder),
                *self._options]  # fmt: skip

    def ask(self, *command: Any) -> Any:
        """Return what it answers to a command."""
        with redis.Redis(port=self.port, socket_timeout=5) as client:
            return client.execute_command(*command)

    def pause(self) -> None:
        """Stop it in its tracks, its connections open."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it without a word."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _signal(self, number: int) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)


def wait_until(condition: Callable[[], object], what: str, limit_s: float = 30.0) -> None:
    """Wait until a condition holds; a server that does not answer yet is waited for, too."""
    end_s = time.monotonic() + limit_s
    while True:
        try:
            if condition():
                return
        except redis.RedisError:
            pass
        assert time.monotonic() < end_s, what
        time.sleep(0.05)
