"""Requests that are accepted: how long 202 takes beside what the disk takes, and what they cost calls beside them.

Neighbours call at a fixed rate, alone and while requests are accepted, scored and delivered, in turns. The receiver is
a thread of the load's process, on the load's core.
"""

from __future__ import annotations

import base64
import http.client
import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Final
from urllib.parse import urlsplit
from uuid import uuid4

from figures import Figures
from machine import SERVER_CORE, BenchError
from part import Line, Part, Session
from peers import start_tailrace
from tailrace.loadtest.plan import LoadPlan
from tailrace.loadtest.runner import run_load

PIPELINE: Final = Path(__file__).parent / "accepted" / "pipeline.py"
BODY: Final = b'{"amount":12.5}'
HEADERS: Final = {"Content-Type": "application/json"}
"""And an id for each request, as the documentation has it: that is on disk too."""
ROUNDS: Final = 4
SECONDS: Final = 1.5
RATE: Final = 500
"""Of the neighbours."""
ACCEPTED_RATE: Final = 100
SYNCS: Final = 40
"""Of a file of a page, a round."""
DELIVERED_S_MAX: Final = 10.0


class Receiver(BaseHTTPRequestHandler):
    """Takes results, and counts them."""

    protocol_version = "HTTP/1.1"
    taken = 0

    def do_POST(self) -> None:
        """Answer 204."""
        self.rfile.read(int(self.headers["content-length"]))
        Receiver.taken += 1
        self.send_response(204)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@contextmanager
def receiving() -> Iterator[str]:
    """Give the URL of a receiver."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/results"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def accepting(url: str) -> Iterator[list[float]]:
    """Have requests accepted at their rate meanwhile; the times, in ms, are in the list once it is over."""
    place, stop, times_ms = urlsplit(url), threading.Event(), list[float]()
    faults: list[str] = []

    def send() -> None:
        with closing(http.client.HTTPConnection(str(place.hostname), place.port, timeout=10)) as client:
            began_s = time.monotonic()
            while not stop.wait(max(began_s + len(times_ms) / ACCEPTED_RATE - time.monotonic(), 0)):
                sent_s = time.perf_counter()
                client.request("POST", f"{place.path}?mode=accepted", BODY, HEADERS | {"X-Request-Id": str(uuid4())})
                answer = client.getresponse()
                body = answer.read()
                if answer.status != 202:
                    faults.append(f"{answer.status} {body[:200]!r}")
                    return
                times_ms.append((time.perf_counter() - sent_s) * 1e3)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield times_ms
    finally:
        stop.set()
        thread.join()
    if faults:
        raise BenchError(f"front_door_accepted: {faults[0]}")


def sync_ms(folder: Path) -> float:
    """Return the median time in which the disk has a page, by fdatasync."""
    times_ms = []
    with (folder / "page").open("wb", buffering=0) as file:
        for number in range(SYNCS):
            began_s = time.perf_counter()
            os.pwrite(file.fileno(), bytes([number]) * 4_096, 0)
            os.fdatasync(file.fileno())
            times_ms.append((time.perf_counter() - began_s) * 1e3)
    return median(times_ms)


def p99_ms(url: str, seconds: float) -> float:
    """Return the p99 of the neighbours. Raises BenchError where one is not answered."""
    report = run_load(LoadPlan(url=url, bodies=[BODY], rate=RATE, duration_s=seconds, connections=16))
    if report.ok is None or report.ok.count < report.shots * 0.9:
        raise BenchError(f"front_door_accepted: the neighbours were answered {report.statuses}")
    return report.ok.p99_ns / 1e6


def measure(session: Session) -> Figures:
    """Return the medians of the rounds, in each of which the neighbours are alone and then beside accepted requests."""
    rounds, seconds = session.pick(ROUNDS, 1), session.pick(SECONDS, 0.5)
    quiet, beside, syncs, times_ms, count = [], [], [], [], 0
    with ExitStack() as stack:
        session.tell("front door: starting a server that accepts")
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="tailrace-", dir=PIPELINE.parents[2] / "build")))
        os.environ["BENCH_RESULTS_URL"] = stack.enter_context(receiving())
        os.environ["BENCH_RESULTS_SECRET"] = "whsec_" + base64.b64encode(bytes(32)).decode()
        Receiver.taken = 0
        options = ("--accepted", str(folder / "accepted"))
        server = start_tailrace(stack, cores={SERVER_CORE}, name="tailrace-accepted", file=PIPELINE, pipeline="order",
                                options=options)  # fmt: skip
        for number in range(rounds):
            session.tell(f"front door: accepted requests, {number + 1} of {rounds}")
            quiet.append(p99_ms(server.url, seconds))
            with accepting(server.url) as found:
                beside.append(p99_ms(server.url, seconds))
            times_ms.append(median(found))
            count += len(found)
            syncs.append(sync_ms(folder))
        end_s = time.monotonic() + DELIVERED_S_MAX
        while Receiver.taken < count and time.monotonic() < end_s:
            time.sleep(0.01)
        if Receiver.taken < count:
            raise BenchError(f"front_door_accepted: {Receiver.taken} of {count} results were delivered")
    pairs = list(zip(times_ms, syncs, strict=True))
    return {
        "front_door": {
            "accepted_p50_ms": round(median(times_ms), 2),
            "accepted_syncs": round(median(time_ms / each_ms for time_ms, each_ms in pairs), 2),
            "accepted_quiet_p99_ms": round(median(quiet), 2),
            "accepted_beside_p99_ms": round(median(beside), 2),
        }
    }


def lines(figures: Figures) -> list[Line]:
    """Return the lines of the table."""
    door = figures["front_door"]
    return [
        Line("accepted, p50", door["accepted_p50_ms"], unit=" ms"),
        Line("  in the time that the disk takes for a page", door["accepted_syncs"], unit="×"),
        Line("neighbours alone, p99", door["accepted_quiet_p99_ms"], unit=" ms"),
        Line("  beside 100 accepted a second", door["accepted_beside_p99_ms"], unit=" ms"),
    ]


PART: Final = Part(
    name="front_door_accepted",
    about="requests that are accepted: 202 beside what the disk takes, and the p99 of calls beside them",
    caveats=("front_door_accepted: the disk is the machine's own, and what else writes to it is in the times.",),
    steps=lambda session: 1 + session.pick(ROUNDS, 1),
    measure=measure,
    lines=lines,
)
