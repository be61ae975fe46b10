"""A real `tailrace serve` in a process of its own, on free ports, and what asks it: load, single calls, metrics."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tailrace.loadtest.plan import LoadPlan
from tailrace.loadtest.processes import start
from tailrace.loadtest.report import LoadReport
from tailrace.loadtest.runner import run_load

COMMAND = (str(Path(sys.executable).with_name("tailrace")), "serve")
MARK = "TAILRACE_TEST"
READY_S_MAX = 60.0
END_S_MAX = 30.0
_SAMPLE = re.compile(r"^(?P<name>\w+)(?:\{(?P<labels>.*)\})? (?P<value>\S+)$", re.MULTILINE)


class Server:
    """One supervisor with its workers. url: where it serves; admin: where its metrics are; log: its output."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, mark: str = "") -> None:
        self.process = process
        self.log = log
        self._mark = f"{MARK}={mark}".encode()
        self.url = ""
        self.admin = ""

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the log lines of one event, so far."""
        lines = self.log.read_text().splitlines()
        found = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
        return [event for event in found if event["event"] == name]

    def wait_ready(self) -> None:
        """Read the addresses from the log, and wait for /readyz."""
        ready = wait_for(lambda: self.process.poll() is not None or self.events("ready"), READY_S_MAX)
        assert self.process.poll() is None, self.log.read_text()
        self.url, self.admin = ready[0]["address"], ready[0]["admin"]
        wait_for(lambda: fetch(f"{self.url}/readyz")[0] == 200, READY_S_MAX)

    def predict_url(self, pipeline: str) -> str:
        """Return where a pipeline is asked."""
        return f"{self.url}/v1/pipelines/{pipeline}/predict"

    def ask(self, pipeline: str, request: Any, headers: dict[str, str] | None = None) -> Answer:
        """Send one request over a connection of its own; return its answer."""
        status, fields, body = fetch(self.predict_url(pipeline), json.dumps(request).encode(), headers)
        return Answer(status, {name.lower(): value for name, value in fields.items()}, json.loads(body))

    def metrics(self) -> dict[str, float]:
        """Return every sample of /metrics by its name and labels, as they are exported."""
        text = fetch(f"{self.admin}/metrics")[2].decode()
        return {f"{m['name']}{{{m['labels'] or ''}}}": float(m["value"]) for m in _SAMPLE.finditer(text)}

    def metric(self, name: str, *labels: str) -> float:
        """Return the sum of the samples of a metric that carry these labels, written `name="value"`."""
        found = self.metrics().items()
        return sum(v for key, v in found if key.startswith(f"{name}{{") and all(each in key for each in labels))

    def workers(self) -> list[dict[str, Any]]:
        """Return what /status says of each worker."""
        return json.loads(fetch(f"{self.admin}/status")[2])["workers"]

    def companions(self) -> list[dict[str, Any]]:
        """Return what /status says of the processes beside the workers."""
        return json.loads(fetch(f"{self.admin}/status")[2])["companions"]

    def processes(self) -> list[int]:
        """Return the pids of all living processes of this server, known by a variable that each inherits."""
        return [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/environ") if self._mark in variables(path)]

    def end(self) -> int:
        """Ask the supervisor to drain, and wait; return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(END_S_MAX)
            except subprocess.TimeoutExpired:
                self.process.send_signal(signal.SIGTERM)  # the second one kills the workers
                self.process.wait(END_S_MAX)
        return self.process.returncode


class Answer:
    """One answer: status, headers by their lower-case names, and the JSON of the body."""

    def __init__(self, status: int, headers: dict[str, str], body: Any) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def degraded(self) -> set[str]:
        """The reasons for which `Server-Timing` calls the answer degraded."""
        return set(re.findall(r'degraded;desc="(\w+)"', self.headers.get("server-timing", "")))


def start_serve(log: Path, file: Path, *options: str, under: Sequence[str] = ()) -> Server:
    """Start `tailrace serve FILE` on free ports; its output goes to the log. under: a command that runs it."""
    command = [*under, *COMMAND, str(file), "--port", "0", "--admin-port", "0", *options]
    mark = str(uuid.uuid4())
    return Server(start(None, "tailrace serve", command, log, env={MARK: mark}).popen, log, mark)


@contextmanager
def serving(log: Path, file: Path, *options: str, under: Sequence[str] = ()) -> Iterator[Server]:
    """Serve a file, ready to be asked; afterwards it has drained, and none of its processes is left."""
    server = start_serve(log, file, *options, under=under)
    try:
        server.wait_ready()
        assert len(server.processes()) == 1 + len(server.workers()) + len(server.companions())
        yield server
    finally:
        server.end()
    assert not server.processes()


@contextmanager
def load(
    url: str,
    bodies: Sequence[bytes],
    *,
    rate: float,
    duration_s: float,
    connections: int = 32,
    budget_ms: float = 100.0,
    headers: Sequence[tuple[str, str]] = (),
    keep_bodies: bool = True,
) -> Iterator[Future[LoadReport]]:
    """Send an open-loop load while the caller does something; `result()` waits for its end."""
    plan = LoadPlan(
        url, bodies, rate=rate, duration_s=duration_s, connections=connections, headers=headers,
        budget_ns=int(budget_ms * 1e6), keep_bodies=keep_bodies,
    )  # fmt: skip
    begun = threading.Event()
    report: Future[LoadReport] = Future()

    def run() -> None:
        try:
            report.set_result(run_load(plan, lambda progress: begun.set() if progress.answered else None))
        except BaseException as error:  # told to the test, which waits for it
            report.set_exception(error)
        finally:
            begun.set()

    thread = threading.Thread(target=run, name="load")
    thread.start()
    try:
        assert begun.wait(READY_S_MAX)
        yield report
    finally:
        thread.join()


def fetch(url: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> tuple[int, Any, bytes]:
    """Return status, headers and body of an answer; status 0 where there is none."""
    request = urllib.request.Request(url, body, {"Content-Type": "application/json", **(headers or {})})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read()
    except OSError as error:
        return 0, {}, str(error).encode()


def message(path: str, body: bytes, *headers: str) -> bytes:
    """Return the bytes of one POST."""
    fields = "".join(f"{header}\r\n" for header in headers)
    return f"POST {path} HTTP/1.1\r\nHost: x\r\n{fields}Content-Length: {len(body)}\r\n\r\n".encode() + body


def connect(url: str) -> socket.socket:
    """Return a connection to a server."""
    host, _, port = url.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=10)


def wait_for(condition: Callable[[], Any], limit_s: float) -> Any:
    """Return what a condition gives once it is true. Fails after `limit_s`."""
    end_s = time.monotonic() + limit_s
    while not (found := condition()):
        assert time.monotonic() < end_s, f"not within {limit_s} s"
        time.sleep(0.01)
    return found


def variables(path: Path) -> list[bytes]:
    """Return the variables of a process from its /proc/…/environ; none if it is gone, or a zombie."""
    try:
        return path.read_bytes().split(b"\0")
    except OSError:
        return []
