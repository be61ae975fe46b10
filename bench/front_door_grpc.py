"""Calls over gRPC beside a bare servicer of the same library that returns a constant, in the same run."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from statistics import median
from typing import Any, Final

import msgspec

from figures import Figures
from front_door_tls import cpu_ns
from grpc_frames import FrameCaller
from machine import LOAD_CORE, SERVER_CORE, BenchError, on_core
from part import Line, Part, Session
from peers import HERE, PIPELINE, WORKPLACE, start, start_tailrace
from tailrace.codecs.proto_form import message_forms
from tailrace.codecs.proto_lock import Lock, lock_path, locked, write_lock
from tailrace.codecs.proto_writer import message_writers
from tailrace.compile.loading import load_pipelines
from tailrace.loadtest.processes import free_port

ROUNDS: Final = 7
ROUND_S: Final = 0.5
IN_FLIGHT: Final = (8, 64)
"""Calls of the one connection, as a client has it."""
START_S_MAX: Final = 20.0
SERVERS: Final = ("tailrace", "aio", "core")


class Asked:
    """A server, what calls it, and the processes whose time counts."""

    def __init__(self, caller: FrameCaller, pids: list[int]) -> None:
        self._caller = caller
        self._pids = pids

    def measure(self, in_flight: int, seconds: float) -> tuple[float, float]:
        """Return calls a second, and processor time a call. Raises BenchError where over 1% have no answer."""
        before_ns = cpu_ns(self._pids)
        answered, calls, took_s = self._caller.run(in_flight, seconds)
        if answered < 0.99 * calls:
            shed = f"{calls - answered} of {calls} calls of gRPC were shed"
            raise BenchError(f"front_door: {shed}: the machine is too busy")
        return calls / took_s, (cpu_ns(self._pids) - before_ns) / calls / 1_000


@contextmanager
def kept_numbers() -> Iterator[tuple[Any, Lock]]:
    """Keep the numbers of the example's messages beside it, as a user would, until the end of the block."""
    (pipeline,) = load_pipelines(PIPELINE)
    path = lock_path(PIPELINE.parent, pipeline.name)
    was_there = path.exists()
    lock = locked(message_forms(pipeline.request, pipeline.response), None)
    if not was_there:
        write_lock(lock, path)
    try:
        yield pipeline, lock
    finally:
        if not was_there:
            path.unlink()


def start_bare(stack: ExitStack, kind: str) -> tuple[int, int]:
    """Start a server that returns a constant; return its port and its pid."""
    log = WORKPLACE / f"grpc-{kind}.log"
    command = [sys.executable, str(HERE / "bare_servicer.py"), kind]
    process = start(stack, f"grpc-{kind}", command, log, cores={SERVER_CORE})
    end_s = time.monotonic() + START_S_MAX
    while not log.read_text().strip().isdigit():
        if time.monotonic() > end_s:
            raise BenchError(f"{kind} did not start: {process.tail()}")
        time.sleep(0.05)
    return int(log.read_text()), process.popen.pid


def open_servers(stack: ExitStack, session: Session) -> dict[str, Asked]:
    """Return the servers by name, each with its caller."""
    pipeline, lock = stack.enter_context(kept_numbers())
    writer = message_writers(message_forms(pipeline.request, pipeline.response), lock)[pipeline.request.__name__]
    decoder = msgspec.json.Decoder(pipeline.request)
    with session.bodies.open("rb") as opened:
        bodies = [writer.write(decoder.decode(next(opened))) for _ in range(200)]
    port = free_port()
    server = start_tailrace(stack, cores={SERVER_CORE}, name="tailrace-grpc", options=("--grpc-port", str(port)))
    found = {"tailrace": (port, f"/tailrace.{pipeline.name}.Predictor/Predict", server.worker_pids())}
    for kind in SERVERS[1:]:
        bare, pid = start_bare(stack, kind)
        found[kind] = bare, "/bench.Bare/Predict", [pid]
    asked = {}
    for name, (where, path, pids) in found.items():
        caller = FrameCaller(where, path, bodies)
        stack.callback(caller.close)
        asked[name] = Asked(caller, pids)
    return asked


def measure(session: Session) -> Figures:
    """Return the medians of the rounds, within which the servers take turns."""
    rates: dict[tuple[str, int], list[float]] = {}
    costs: dict[tuple[str, int], list[float]] = {}
    with ExitStack() as stack:
        session.tell("front door, gRPC: starting the servers")
        asked = open_servers(stack, session)
        stack.enter_context(on_core(LOAD_CORE))
        rounds = session.pick(ROUNDS, 1)
        for number in range(rounds + 1):
            session.tell(f"front door, gRPC, {number} of {rounds}")
            for in_flight in IN_FLIGHT:
                for name, server in asked.items():
                    rate, cost = server.measure(in_flight, ROUND_S)
                    if number:  # the first round warms up
                        rates.setdefault((name, in_flight), []).append(rate)
                        costs.setdefault((name, in_flight), []).append(cost)
    return {"front_door": summarize(rates, costs)}


def summarize(rates: dict[tuple[str, int], list[float]], costs: dict[tuple[str, int], list[float]]) -> Figures:
    """Return the figures. The ratio, and what is added, are of the number in flight at which they are worse."""
    ratios, added, added_core = [], [], []
    figures: Figures = {}
    for in_flight in IN_FLIGHT:
        own, bare = rates["tailrace", in_flight], rates["aio", in_flight]
        ratios.append(median(one / other for one, other in zip(own, bare, strict=True)))
        for kind, found in (("aio", added), ("core", added_core)):
            pairs = zip(costs["tailrace", in_flight], costs[kind, in_flight], strict=True)
            found.append(median(one - other for one, other in pairs))
        for name in SERVERS:
            figures[f"grpc_{name}_{in_flight}_us"] = round(median(costs[name, in_flight]), 1)
            figures[f"grpc_{name}_{in_flight}_rps"] = round(median(rates[name, in_flight]))
    return {
        "grpc_ratio_bare": round(min(ratios), 2),
        "grpc_added_us": round(max(added), 1),
        "grpc_added_core_us": round(max(added_core), 1),
    } | figures


def lines(figures: Figures) -> list[Line]:
    """Return the lines of the table."""
    door = figures["front_door"]
    found = [
        Line("gRPC, calls to those of a bare servicer", door["grpc_ratio_bare"], 0.8, 0.9, "×", more_is_better=True),
        Line("  processor time added to a call of it", door["grpc_added_us"], 60, 30, " µs"),
        Line("  and to a constant of our own server", door["grpc_added_core_us"], unit=" µs"),
    ]
    names = {"tailrace": "the fraud example", "aio": "a bare servicer of grpc.aio", "core": "our server, a constant"}
    for in_flight in IN_FLIGHT:
        for name, told in names.items():
            found.append(Line(f"{told}, {in_flight} in flight", door[f"grpc_{name}_{in_flight}_us"], unit=" µs"))
    return found


PART: Final = Part(
    name="front_door_grpc",
    about="calls over gRPC beside a bare servicer of grpcio that returns a constant",
    caveats=(
        "front_door: the caller of gRPC is a socket that sends frames made beforehand, on one connection; the bare "
        "servicer neither reads nor writes a message.",
    ),
    steps=lambda session: 1 + session.pick(ROUNDS, 1),
    measure=measure,
    lines=lines,
)
