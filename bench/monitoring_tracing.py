"""Traces: what they cost beside an observer that sends none, at 5,000/s, with one request in a hundred sampled.

Predicted before it ran: 0.2 µs of a worker's CPU a request, since the observer is told a route more; nothing of p99
that can be told from noise; 3 µs a request of the observer's CPU, most of it for the slow ones; no span lost.
"""

from __future__ import annotations

import threading
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from statistics import median
from typing import Any, Final

from figures import Figures
from front_door_tls import cpu_ns
from machine import LOAD_CORE, SERVER_CORE
from monitoring_log import RATE, load
from part import Line, Part, Session
from peers import Server, start_tailrace

PAIRS: Final = 16
SECONDS: Final = 0.5


class Collector(BaseHTTPRequestHandler):
    """Takes whatever is sent."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Take one request."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def collecting() -> Iterator[str]:
    """Give the address of a collector."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def measure(session: Session) -> Figures:
    """Return the medians over pairs of short loads, one without traces and one with them."""
    with ExitStack() as stack:
        return {"monitoring": _measure(session, stack, stack.enter_context(collecting()))}


def _measure(session: Session, stack: ExitStack, url: str) -> Figures:
    cores, bodies = {SERVER_CORE, LOAD_CORE}, session.bodies.read_bytes().splitlines()
    plain = start_tailrace(stack, cores=cores, name="tailrace-observed", options=("--observe",))
    traced = start_tailrace(stack, cores=cores, name="tailrace-traced", options=("--traces", url))
    observers = {server: observer_of(server) for server in (plain, traced)}
    added_us, added_ms, observer_us = [], [], []
    for server in (plain, traced):
        load(server, bodies, 1.0)
    pairs = session.pick(PAIRS, 3)
    for number in range(pairs):
        session.tell(f"traces, {number + 1} of {pairs}")
        found, took = {}, {}
        for server in (plain, traced) if number % 2 else (traced, plain):
            began_ns = cpu_ns(observers[server])
            found[server] = load(server, bodies, SECONDS)
            took[server] = (cpu_ns(observers[server]) - began_ns) / 1e3 / (RATE * SECONDS)
        added_us.append(found[traced][0] - found[plain][0])
        added_ms.append(found[traced][1] - found[plain][1])
        observer_us.append(took[traced] - took[plain])
    sent, lost = spans(traced)
    return {
        "traced_worker_us": round(median(added_us), 2),
        "traced_p99_added_median_ms": round(median(added_ms), 3),
        "traced_observer_us": round(median(observer_us), 2),
        "spans_sent": sent,
        "spans_lost": lost,
    }


def observer_of(server: Server) -> list[int]:
    """Return the pid of a server's observer."""
    return [each["pid"] for each in server.status()["companions"] if each["name"] == "observer"]


def spans(server: Server) -> tuple[int, int]:
    """Return how many spans were taken, and how many were not."""
    with urllib.request.urlopen(f"{server.admin}/metrics") as answer:
        lines = [line for line in answer.read().decode().splitlines() if line.startswith("tailrace_spans_total{")]
    by = {line.split('"')[1]: int(float(line.split()[-1])) for line in lines}
    return by["exported"], by["rejected"] + by["failed"] + by["dropped"]


def lines(figures: Figures) -> list[Line]:
    """Return the lines of the table."""
    found = figures["monitoring"]
    return [
        Line(f"traces of one in a hundred at {RATE:,}/s: added to a worker's CPU a request", found["traced_worker_us"],
             unit=" µs"),
        Line("  to the observer's", found["traced_observer_us"], unit=" µs"),
        Line("  to the median p99", found["traced_p99_added_median_ms"], unit=" ms"),
        Line("  spans that were lost", found["spans_lost"], 0, 0),
    ]  # fmt: skip


PART: Final = Part(
    name="monitoring_tracing",
    about="traces: what they cost the worker and the observer",
    caveats=(
        f"monitoring_tracing: {PAIRS} pairs of {SECONDS} s, without traces and with them, both with an observer; the "
        "servers, observers, collector and load share two cores.",
    ),
    steps=lambda session: session.pick(PAIRS, 3),
    measure=measure,
    lines=lines,
)
