"""What keys and limits add to a request: the worker's own work from its bytes to those of its answer, in one process.

A server, its connections and an engine turn by hand, with nothing of the kernel's between them: a microsecond shows.
"""

from __future__ import annotations

import gc
import itertools
import os
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Final

from figures import Figures
from machine import SERVER_CORE, BenchError, on_core
from part import Line, Part, Session
from peers import PIPELINE
from tailrace.codecs.offer import Offer
from tailrace.compile.loading import load_pipelines
from tailrace.deadline import MonotonicClock
from tailrace.engine import Engine
from tailrace.loop_load import LoopLoad
from tailrace.monitor.counts.limit import LimitCounts
from tailrace.monitor.layout import worker_layout
from tailrace.monitor.recorder import BatchRecorder
from tailrace.monitor.shared import MetricBlock
from tailrace.request.limit import NO_LIMIT, Limit
from tailrace.server.declared import shape_of
from tailrace.server.endpoint import CallEndpoint, Endpoint, Page
from tailrace.server.http.limits import HttpLimits
from tailrace.server.http.server import HttpServer
from tailrace.server.key_file import changing, make_key
from tailrace.server.keys import Keys
from tailrace.server.limiting.bucket import Lender
from tailrace.server.limiting.host_table import HostAccount, HostTable
from tailrace.server.limiting.limiter import Declared, Limiter
from tailrace.server.options import ServeOptions
from tailrace.testing import TestClient, Turns

ROUNDS: Final = 101
BATCHES: Final = 8
"""Of each caller in a round."""
CALLS: Final = 64
"""Of a batch, each on a connection of its own."""
AMPLE: Final = Limit(rate="1000000/s", burst=100_000_000)
"""So much that nothing is refused."""
OWN: Final = replace(AMPLE, concurrent=10_000)
DECLARED: Final = Declared(together=OWN, each_key=OWN)
USUAL: Final = Limit(rate="1000000/s", burst=16)
"""Of which a worker is lent one token at a time, as of any under 400 a second."""
Held = tuple[Limit, Declared] | None
CALLERS: Final[dict[str, Held]] = {
    "bare": None,
    "key": (NO_LIMIT, Declared()),
    "rate": (AMPLE, Declared()),
    "limits": (OWN, Declared()),
    "all": (OWN, DECLARED),
    "table": (USUAL, Declared()),
}
"""By what a caller is held to: nothing, not even a key; its key; that and its rate; also its calls in flight; also what
the pipeline gives each key, and all together; a key and a rate that is shared with other workers, token by token."""


class Socket:
    """A transport that keeps what is written last."""

    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> None:
        """Keep it."""
        self.written = data

    def is_closing(self) -> bool:
        """It never is."""
        return False


def shared_lender(name: str, limit: Limit) -> Lender:
    """Return who lends the tokens of a limit out of a table that workers share."""
    return HostAccount(name, limit, HostTable(os.memfd_create(name)), MonotonicClock())


class Caller:
    """Sixty-four connections to a server of its own.

    held: to which limits, None for no key; folder: of its key; is_shared: as in a server of several workers.
    """

    def __init__(
        self, stack: ExitStack, bodies: list[bytes], held: tuple[Limit, Declared] | None, folder: Path, *,
        is_shared: bool = False,
    ) -> None:  # fmt: skip
        pipeline = replace(load_pipelines(PIPELINE)[0], record_requests=False)
        client = stack.enter_context(TestClient(pipeline))
        self._turns = Turns()
        load, clock = LoopLoad(self._turns), MonotonicClock()
        block = MetricBlock.create(worker_layout([shape_of(pipeline)], 0))
        engine = Engine(client.plan, load, [BatchRecorder(block, pipeline.name)], clock, self._turns)
        endpoint = Endpoint(engine, Offer(pipeline.request, array_max=1_000))
        routes: dict[bytes, dict[bytes, CallEndpoint | Page]] = {b"/p": {b"POST": endpoint}}
        http = HttpServer(routes, HttpLimits.of(ServeOptions(files=())), load, lambda kind: None)
        header = b""
        if held is not None:
            own, declared = held
            lender_of = shared_lender if is_shared else None
            limiter = Limiter({endpoint.scope: declared}, clock, LimitCounts(block), lender_of)
            http.shared.routes = {b"/p": {b"POST": limiter.within(endpoint)}}
            secret, key = make_key("caller", ["pipelines/*"], limit=own)
            with changing(folder / "keys.json", create=True) as known:
                known.append(key)
            http.shared.keys = Keys(folder / "keys.json", lambda kind: None, limiter)
            header = b"X-API-Key: %b\r\n" % secret.encode()
        self.sockets = [Socket() for _ in range(CALLS)]
        self._messages = [
            b"POST /p HTTP/1.1\r\nHost: a\r\n%bContent-Length: %d\r\n\r\n%b" % (header, len(body), body)
            for body in itertools.islice(itertools.cycle(bodies), CALLS)
        ]
        self._connections: list[Any] = [http() for _ in range(CALLS)]
        for connection, sock in zip(self._connections, self.sockets, strict=True):
            connection.connection_made(sock)

    def cost_us(self, batches: int) -> float:
        """Return what a request takes of the core."""
        began_ns = time.process_time_ns()
        for _ in range(batches):
            for connection, message in zip(self._connections, self._messages, strict=True):
                connection.data_received(message)
            self._turns.turn()
            self._turns.turn()
        return (time.process_time_ns() - began_ns) / (batches * CALLS * 1_000)

    def check(self) -> None:
        """Raise BenchError unless all were answered."""
        for sock in self.sockets:
            if not sock.written.startswith(b"HTTP/1.1 200 "):
                raise BenchError(f"front_door_auth: {sock.written[:200]!r} is no answer")


def measure(session: Session) -> Figures:
    """Return the medians of the rounds, within which the callers take turns, each time in another order."""
    session.tell("front door: keys and limits")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        bodies = session.bodies.read_bytes().splitlines()[:CALLS]
        callers = {}
        for name, held in CALLERS.items():
            (folder / name).mkdir()
            callers[name] = Caller(stack, bodies, held, folder / name, is_shared=name == "table")
        stack.enter_context(on_core(SERVER_CORE))
        gc.disable()  # serving does too
        stack.callback(gc.enable)
        for caller in callers.values():
            caller.cost_us(BATCHES)  # heads are learnt
            caller.check()
        found: dict[str, list[float]] = {name: [] for name in callers}
        names = list(callers)
        for number in range(session.pick(ROUNDS, 11)):
            for name in names[number % len(names) :] + names[: number % len(names)]:
                found[name].append(callers[name].cost_us(BATCHES))
        for caller in callers.values():
            caller.check()
    return {"front_door": summarize(found)}


def summarize(costs_us: dict[str, list[float]]) -> Figures:
    """Return what each caller's request takes more than that of one who needs no key, pair by pair."""
    added = {
        name: round(median(one - bare for one, bare in zip(each, costs_us["bare"], strict=True)), 2)
        for name, each in costs_us.items()
    }
    return {
        "auth_us": added["limits"],
        "auth_key_us": added["key"],
        "auth_rate_us": added["rate"],
        "auth_table_us": added["table"],
        "auth_all_us": added["all"],
        "auth_bare_us": round(median(costs_us["bare"]), 2),
    }


def lines(figures: Figures) -> list[Line]:
    """Return the lines of the table."""
    door = figures["front_door"]
    return [
        Line("a key with a rate and calls in flight, added to a request", door["auth_us"], 2, 1, " µs"),
        Line("  a key alone", door["auth_key_us"], unit=" µs"),
        Line("  a key with a rate", door["auth_rate_us"], unit=" µs"),
        Line("  the same, shared by workers, below 400 a second", door["auth_table_us"], unit=" µs"),
        Line("  all of it, and the pipeline's limits too", door["auth_all_us"], unit=" µs"),
        Line("a request without any, in a batch of 64", door["auth_bare_us"], unit=" µs"),
    ]


PART: Final = Part(
    name="front_door_auth",
    about="what keys and limits add to a request, in the worker's own work",
    caveats=("front_door_auth: the calls of a batch of 64 are all of one key, and nothing of the kernel's is in it.",),
    steps=lambda session: 1,
    measure=measure,
    lines=lines,
)
