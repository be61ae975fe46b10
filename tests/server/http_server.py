"""A real HTTP server on a uvloop loop in a thread, and a client that is no more than its socket."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import select
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import uvloop

from tailrace.compile.compiler import compile_plan
from tailrace.compile.warm_up import warm_up
from tailrace.deadline import Budget, MonotonicClock
from tailrace.engine import Engine
from tailrace.features.stores.memory import MemoryStore
from tailrace.loop_load import LoopLoad
from tailrace.monitor.layout import worker_layout
from tailrace.monitor.recorder import BatchRecorder, WorkerRecorder
from tailrace.monitor.shared import MetricBlock
from tailrace.pipeline import Pipeline
from tailrace.server.declared import shape_of
from tailrace.server.endpoint import Answer as PageAnswer
from tailrace.server.endpoint import CallEndpoint, Endpoint, Page
from tailrace.server.entrance import entrance_of
from tailrace.server.http.connection import Connection
from tailrace.server.http.limits import HttpLimits
from tailrace.server.http.server import HttpServer
from tailrace.server.http.shared import Shared
from tailrace.server.logging import logger
from tailrace.server.openapi.page import description_routes
from tailrace.server.options import ServeOptions
from tailrace.server.readiness import Readiness
from tailrace.server.request_ids import RequestIds
from tailrace.server.routing import model_routes, pipeline_routes
from tailrace.server.served import offer_of

PATIENCE_S = 20.0
"""A bound for what must happen; nothing is expected to take so long."""

PIPELINES = ("log", "log_with_fallback", "payment")
"""What the shared server serves."""

RELEASE = "r1"
"""Its name, as the Open Inference Protocol tells it."""

AMPLE = Budget("20s")
"""So long that a busy machine sheds nothing."""


class RunningServer:
    """Pipelines served on a free loopback port. Time moves by `sweep`, one second each, and by nothing else."""

    def __init__(
        self,
        pipelines: Sequence[Pipeline],
        connection_type: Callable[[Shared], Connection] = Connection,
        ids: RequestIds | None = None,
        **options: Any,
    ) -> None:
        self.options = ServeOptions(files=(), **options)
        self.block = MetricBlock.create(worker_layout([shape_of(pipeline) for pipeline in pipelines], 0))
        self.tasks_made = 0
        self._pipelines = pipelines
        self._connection_type = connection_type
        self._ids = ids
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: uvloop.run(self._serve()), name="http server", daemon=True)

    def __enter__(self) -> RunningServer:
        self._thread.start()
        assert self._ready.wait(PATIENCE_S)
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()

    async def _serve(self) -> None:
        clock, self.loop, self._stop = MonotonicClock(), asyncio.get_running_loop(), asyncio.Event()
        routes: dict[bytes, dict[bytes, CallEndpoint | Page]] = {
            b"/livez": {b"GET": Page(lambda: PageAnswer(200, b"text/plain", b"live\n"))}
        }
        self.recorder = WorkerRecorder(self.block, 0)
        self.load = LoopLoad(self.loop)
        count = self.recorder.record_failure
        self.http = HttpServer(routes, HttpLimits.of(self.options), self.load, count, ids=self._ids)
        plans, self.engines, self.endpoints = [], {}, []
        for pipeline in self._pipelines:
            plan = compile_plan(pipeline, MemoryStore(), clock=clock)
            await plan.open()
            plan, _ = await warm_up(plan, clock)
            engine = Engine(plan, self.load, [BatchRecorder(self.block, pipeline.name)], clock)
            options = self.options
            codec = offer_of(pipeline, options.array_max, options.body_bytes_max, arrow=options.arrow)
            self.endpoints.append(Endpoint(engine, codec))
            plans.append(plan)
            self.engines[pipeline.name] = engine
        self.readiness = Readiness()
        self.readiness.set(True)
        self.entrances = [entrance_of(each, self.options, RELEASE) for each in self.endpoints]
        routes |= pipeline_routes(self.entrances)
        routes |= model_routes(self.entrances, self.readiness, with_keys=self.options.asks_callers)
        routes |= description_routes(self._pipelines, self.options.array_max, logger())
        self.loop.set_task_factory(self._make_task)
        self.listener = await self.loop.create_server(
            lambda: self._connection_type(self.http.shared), "127.0.0.1", 0, backlog=1_024
        )
        self.address = self.listener.sockets[0].getsockname()
        self._ready.set()
        await self._stop.wait()
        self.listener.close()
        for connection in list(self.http.connections):
            connection._transport.abort()
        await asyncio.sleep(0)
        for plan in plans:
            plan.close()

    def _make_task(
        self, loop: asyncio.AbstractEventLoop, run: Coroutine[Any, Any, Any], **names: Any
    ) -> asyncio.Task[Any]:
        self.tasks_made += 1
        return asyncio.Task(run, loop=loop, **names)

    def on_loop(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function on the server's loop; return what it returns."""

        async def call() -> Any:
            return function(*arguments)

        return asyncio.run_coroutine_threadsafe(call(), self.loop).result(PATIENCE_S)

    def sweep(self, seconds: int = 1) -> None:
        """Let time pass, once all that the clients have sent by now is read."""
        self.settle()
        for _ in range(seconds):
            self.on_loop(self.http.sweep)

    def settle(self) -> None:
        """Come back when the loop has read what lies in its sockets: two turns of it."""
        for _ in range(2):
            self.on_loop(int)

    def hold(self, act: Callable[[], object]) -> None:
        """Hold the loop while the clients act, so that it finds all that they did in one turn."""
        held, go_on = threading.Event(), threading.Event()

        def stand() -> None:
            held.set()
            assert go_on.wait(PATIENCE_S)

        self.loop.call_soon_threadsafe(stand)
        assert held.wait(PATIENCE_S)
        try:
            act()
        finally:
            go_on.set()

    def batches(self, pipeline: str) -> int:
        """Return how many batches of a pipeline have been answered."""
        series = self.block.find("tailrace_batch_rows", pipeline)
        return sum(self.block.cells[series.offset : series.offset + series.length - 1])

    def count(self, name: str, *labels: str) -> int:
        """Return one counter."""
        return int(self.block.cells[self.block.find(name, *labels).offset])

    def counts(self, name: str, label: str) -> dict[str, int]:
        """Return what a counter with two labels, the first of which is `label`, has counted by its second."""
        found = {}
        for series in self.block.layout.series:
            if series.name == name and series.labels[0] == label and self.block.cells[series.offset]:
                found[series.labels[1]] = int(self.block.cells[series.offset])
        return found

    def connect(self) -> RawClient:
        """Return a new client."""
        return RawClient(self.address)


@dataclass(frozen=True)
class Answer:
    """One answer as it came. headers: by lower-case name."""

    version: str
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body's value."""
        return json.loads(self.body)

    def problem(self) -> dict[str, Any]:
        """Return the problem details that this answer must be."""
        assert self.headers["content-type"] == "application/problem+json"
        problem: dict[str, Any] = self.json
        assert problem["status"] == self.status
        assert problem["title"]
        assert problem["detail"]
        return problem


class RawClient:
    """A socket, and the least that reads HTTP answers off it."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.sock = socket.create_connection(address, PATIENCE_S)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> RawClient:
        """Send all of it."""
        self.sock.sendall(data)
        return self

    def try_send(self, data: bytes) -> int:
        """Send until all is gone or the server has had enough; return how many bytes were taken."""
        sent = 0
        with contextlib.suppress(ConnectionError):
            while sent < len(data):
                sent += self.sock.send(data[sent : sent + 65_536])
        return sent

    def ask(self, data: bytes, *, head: bool = False) -> Answer:
        """Send a request and read its answer."""
        return self.send(data).read(head=head)

    def read(self, *, head: bool = False) -> Answer:
        """Read one answer. head: it answers a HEAD, and so has no body."""
        top = self._take_to(b"\r\n\r\n").decode("latin-1")
        status_line, *lines = top[:-4].split("\r\n")
        version, status, _ = status_line.split(" ", 2)
        headers = {}
        for line in lines:
            name, _, value = line.partition(": ")
            assert name.lower() not in headers, f"{name} stands twice"
            headers[name.lower()] = value
        size = 0 if head or status == "100" else int(headers["content-length"])
        while len(self._buffer) < size:
            self._fill()
        body, self._buffer = self._buffer[:size], self._buffer[size:]
        return Answer(version, int(status), headers, body)

    def is_silent(self) -> bool:
        """Say whether nothing has come: no answer, no end. Only after something that must have brought it."""
        return not self._buffer and not select.select([self.sock], [], [], 0)[0]

    def assert_closed(self) -> None:
        """Assert that the server ends the connection and sends nothing more."""
        with contextlib.suppress(ConnectionError):
            rest = self._buffer + self.sock.recv(65_536)
            assert rest == b"", rest

    def end(self) -> None:
        """Say that no more will be sent; the server may have closed already."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    def read_to_end(self) -> bytes:
        """Return all that comes until the server closes."""
        found = [self._buffer]
        with contextlib.suppress(ConnectionError):
            while data := self.sock.recv(65_536):
                found.append(data)
        return b"".join(found)

    def _take_to(self, mark: bytes) -> bytes:
        while mark not in self._buffer:
            self._fill()
        end = self._buffer.index(mark) + len(mark)
        taken, self._buffer = self._buffer[:end], self._buffer[end:]
        return taken

    def _fill(self) -> None:
        data = self.sock.recv(65_536)
        if not data:
            raise EOFError(f"the server closed after {self._buffer!r}")
        self._buffer += data


def post(body: bytes | str, *headers: str, path: str = "/v1/pipelines/log/predict", version: str = "1.1") -> bytes:
    """Return a POST of a body."""
    body = body.encode() if isinstance(body, str) else body
    lines = [f"POST {path} HTTP/{version}", "Host: a", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def head_of(method: str = "GET", path: str = "/livez", *headers: str, version: str = "1.1") -> bytes:
    """Return a request's head."""
    return "\r\n".join([f"{method} {path} HTTP/{version}", "Host: a", *headers, "", ""]).encode("latin-1")


def chunked(*chunks: bytes, last: bytes = b"0\r\n\r\n", headers: str = "") -> bytes:
    """Return a POST with its body in chunks; `last` ends it."""
    top = f"POST /v1/pipelines/log/predict HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n{headers}\r\n"
    return top.encode() + b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + last


def payment_of(amount: float = 1.0, label: str = "") -> str:
    """Return the body of a request that the pipeline `log` answers with its label."""
    return json.dumps({"amount": amount, "label": label})


def ample(pipeline: Pipeline) -> Pipeline:
    """Return a pipeline that sheds nothing."""
    return replace(pipeline, budget=AMPLE)


def wait_for(condition: Callable[[], object], what: str) -> None:
    """Poll until something holds."""
    end_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end_s, f"still not: {what}"
        time.sleep(0.005)


def rss_bytes() -> int:
    """Return this process's resident memory."""
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4_096


def assert_serves(server: RunningServer) -> None:
    """Assert that a new, well-behaved client is served."""
    with server.connect() as client:
        answer = client.ask(post(payment_of(2.0, "well")))
        assert (answer.status, answer.json["label"]) == (200, "well")


def pieces_of(data: bytes, cuts: Sequence[int]) -> Iterator[bytes]:
    """Cut data at the given places."""
    bounds = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for begin, end in pairwise(bounds):
        if begin != end:
            yield data[begin:end]
