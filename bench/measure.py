"""What is measured: requests a second under closed-loop load, tails under open-loop load, and one request at a time."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final
from urllib.parse import urlsplit

from machine import LOAD_CORE, BenchError

HERE: Final = Path(__file__).parent
CONNECTIONS: Final = 64
REFUSED_SHARE_MAX: Final = 0.002


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """One run of wrk: requests a second, and the latency it saw, counted from the actual sending.

    refused: answers that were not 2xx, which `rps` leaves out.
    """

    rps: float
    p50_ms: float
    p99_ms: float
    requests: int
    refused: int


def run_wrk(url: str, bodies: Path, seconds: int, *, budget_ms: str = "", judged: bool = True) -> ClosedLoop:
    """Drive a server with wrk from the load's core. Refusals are not counted in `rps`.

    bodies: a file of them; all are sent in turns. budget_ms: the X-Budget-Ms of every request, if any. judged: False
    where refusals are let pass, as for warming up. Raises BenchError for more than `REFUSED_SHARE_MAX` of them: on a
    shared machine a stall longer than the budget makes a server that keeps it refuse what has waited.
    """
    command = ["taskset", "-c", str(LOAD_CORE), "wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--timeout", "5s",
               "-s", str(HERE / "post.lua"), url]  # fmt: skip
    told = {"BODIES": str(bodies)} | ({"BUDGET_MS": budget_ms} if budget_ms else {})
    run = subprocess.run(
        command, capture_output=True, text=True, timeout=seconds + 30, check=False, env=os.environ | told
    )
    line = re.search(r"^RESULT (.*)$", run.stdout, re.MULTILINE)
    if run.returncode or line is None:
        raise BenchError(f"wrk failed on {url}: {run.stdout}{run.stderr}")
    result = json.loads(line[1])
    refused = result["not_2xx"] > REFUSED_SHARE_MAX * result["requests"]
    if judged and (refused or result["socket_errors"] or not result["requests"]):
        raise BenchError(
            f"{url}: {result['not_2xx']} answers were not 2xx, {result['socket_errors']} sockets failed, of "
            f"{result['requests']} requests: a rate of refusals is no figure"
        )
    rps = (result["requests"] - result["not_2xx"]) / (result["duration_us"] / 1e6)
    return ClosedLoop(rps, result["p50_us"] / 1e3, result["p99_us"] / 1e3, result["requests"], result["not_2xx"])


def median_of(runs: Sequence[ClosedLoop]) -> ClosedLoop:
    """Return the median of each figure, and the sums of what was counted."""
    return ClosedLoop(
        median(run.rps for run in runs),
        median(run.p50_ms for run in runs),
        median(run.p99_ms for run in runs),
        sum(run.requests for run in runs),
        sum(run.refused for run in runs),
    )


def measure_idle_us(url: str, bodies: Sequence[bytes], requests: int) -> float:
    """Return the p50 in µs of one request at a time on one connection, from a socket on the load's core."""
    target = urlsplit(url)
    heads = (
        f"POST {target.path} HTTP/1.1\r\nHost: {target.netloc}\r\nContent-Type: application/json\r\nContent-Length: "
    ).encode()
    messages = [heads + b"%d\r\n\r\n" % len(body) + body for body in bodies[:requests]]
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {LOAD_CORE})
    try:
        with socket.create_connection((target.hostname, target.port), timeout=5) as link:
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            times_ns = [ask(link, messages[index % len(messages)]) for index in range(requests)]
    finally:
        os.sched_setaffinity(0, cores)
    return median(times_ns[requests // 10 :]) / 1e3


def ask(link: socket.socket, message: bytes) -> int:
    """Send one request, read its whole answer, return the nanoseconds between. Raises BenchError unless 200."""
    began = time.perf_counter_ns()
    link.sendall(message)
    answer = link.recv(65_536)
    while (end := answer.find(b"\r\n\r\n")) < 0 or len(answer) < end + 4 + length_of(answer[:end]):
        answer += link.recv(65_536)
    took = time.perf_counter_ns() - began
    if not answer.startswith(b"HTTP/1.1 200"):
        raise BenchError(f"one request at a time: {answer[:300]!r}")
    return took


def length_of(head: bytes) -> int:
    """Return the Content-Length of an answer's head."""
    found = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
    if found is None:
        raise BenchError(f"an answer without Content-Length: {head!r}")
    return int(found[1])


def fetch_answer(url: str, body: bytes) -> bytes:
    """Post one body; return the body of the answer. Raises BenchError unless it is a 2xx."""
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return bytes(answer.read())
    except urllib.error.HTTPError as error:
        raise BenchError(f"{url}: {error.code} {error.read()[:500]!r} to {body!r}") from None
