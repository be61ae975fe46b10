"""Callers that do all the harm a caller can, at once, beside an open-loop load of good ones."""

from __future__ import annotations

import math
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from serving import Server, connect, load, message, serving, wait_for
from visits import BODIES, BUDGET_MS, check_answers, fill

from tailrace.deadline import LAYERS

RATE = 200.0
SLOW_SENDERS = 100
BODY_BYTES = 10_000_000
DEPTH = 10_000
PATH = "/v1/pipelines/faulted/predict"
GOOD = message(PATH, BODIES[0])
GROWTH_MAX = 10
"""How many times what a layer took alone it may take beside them: all share two cores, and a layer's clock runs on
while another process has the core."""
NOISE_S = 0.002

Attack = Callable[[str, threading.Event], Counter[int]]


def statuses_of(sock: socket.socket) -> list[int]:
    """Return the statuses of all that is answered until the server closes, or says nothing more for a second."""
    sock.settimeout(1)
    found = b""
    with suppress(OSError):
        while piece := sock.recv(65_536):
            found += piece
    return [int(line[9:12]) for line in found.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]


def send_slowly(url: str, stop: threading.Event) -> Counter[int]:
    """Send a byte now and then on each of many connections; a request never comes to its end."""
    told: Counter[int] = Counter()
    with ExitStack() as stack:
        senders = [stack.enter_context(connect(url)) for _ in range(SLOW_SENDERS)]
        for place in range(len(GOOD) - 1):
            for sender in senders:
                sender.send(GOOD[place : place + 1])
            told[0] += SLOW_SENDERS
            if stop.wait(0.02):
                break
    return told


def send_large_bodies(url: str, stop: threading.Event) -> Counter[int]:
    """Send bodies ten times over the limit, with their length and in chunks, and do not stop when refused."""
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\n"
    chunk = b"%x\r\n%b\r\n" % (1 << 16, b" " * (1 << 16))
    kinds = (
        (f"{head}Content-Length: {BODY_BYTES}\r\n\r\n".encode(), b" " * (1 << 16)),
        (f"{head}Transfer-Encoding: chunked\r\n\r\n".encode(), chunk),
    )
    told: Counter[int] = Counter()
    while not stop.wait(0.01):
        for top, piece in kinds:
            with connect(url) as sock:
                with suppress(OSError):  # it has heard enough
                    sock.sendall(top)
                    for _ in range(BODY_BYTES // len(piece)):
                        sock.sendall(piece)
                told.update(statuses_of(sock) or [0])
    return told


def send_deep_json(url: str, stop: threading.Event) -> Counter[int]:
    """Send JSON of ten thousand levels, and more of it on the same connection."""
    deep = b"[" * DEPTH + b"]" * DEPTH
    bodies = [
        b"[" * DEPTH,
        deep,
        b'{"customer_id":' * DEPTH + b"1" + b"}" * DEPTH,
        b'{"x":%b,%b' % (deep, BODIES[0][1:]),
    ]
    told: Counter[int] = Counter()
    with connect(url) as sock, sock.makefile("rb") as stream:
        while not stop.wait(0.005):
            for body in bodies:
                sock.sendall(message(PATH, body))
                told[int(stream.readline().split()[1])] += 1
                head = b"".join(iter(stream.readline, b"\r\n")).lower()
                stream.read(int(head.partition(b"content-length: ")[2].split()[0]))
    return told


def smuggle(url: str, stop: threading.Event) -> Counter[int]:
    """Hide a good request in another whose length can be read in two ways; it must never be answered."""
    top = f"POST {PATH} HTTP/1.1\r\nHost: x\r\n".encode()
    lengths = (
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        b"Content-Length: 0\r\nContent-Length: %d\r\n\r\n" % len(GOOD),
        b"Content-Length: 0, %d\r\n\r\n" % len(GOOD),
        b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n1\r\n[]\r\n0\r\n\r\n",
        b"Content-Length : 0\r\n\r\n",
        b"X-A: b\r\n Content-Length: 0\r\n\r\n",
        b"X-A: b\nContent-Length: 0\r\n\r\n",
    )
    told: Counter[int] = Counter()
    while not stop.wait(0.01):
        for length in lengths:
            with connect(url) as sock:
                with suppress(OSError):
                    sock.sendall(top + length + GOOD)
                    sock.shutdown(socket.SHUT_WR)
                statuses = statuses_of(sock)
                assert len(statuses) <= 1, (length, statuses)
                told.update(statuses or [0])
    return told


ATTACKS: dict[Attack, set[int]] = {
    send_slowly: {0},
    send_large_bodies: {0, 413},
    send_deep_json: {400, 422},
    smuggle: {0, 400, 501},
}
"""What each may be answered; 0: the connection is closed without a word, or nothing was asked in full."""


@contextmanager
def attacked(url: str) -> Iterator[dict[Attack, Future[Counter[int]]]]:
    """Let all of them loose, and end them."""
    stop = threading.Event()
    with ThreadPoolExecutor(len(ATTACKS)) as pool:
        try:
            yield {attack: pool.submit(attack, url, stop) for attack in ATTACKS}
        finally:
            stop.set()


class Times:
    """What the server has recorded of its layers since it was made: the mean of each, in seconds."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._before = self._read()

    def _read(self) -> dict[str, tuple[float, float]]:
        found = self._server.metrics()
        keys = {layer: f'{{layer="{layer}",pipeline="faulted"}}' for layer in LAYERS}
        return {
            layer: (found[f"tailrace_layer_seconds_sum{key}"], found[f"tailrace_layer_seconds_count{key}"])
            for layer, key in keys.items()
        }

    def means_s(self) -> dict[str, float]:
        """Return the mean time of a call in each layer."""
        now, means = self._read(), {}
        for layer, (before_s, before) in self._before.items():
            seconds, calls = now[layer]
            means[layer] = (seconds - before_s) / (calls - before)
        return means


def test_neighbours_of_attackers(tmp_path: Path, pipelines_dir: Path) -> None:
    """Whatever attackers do, each good call is answered once, from its own rows, in a few times what it took alone."""
    file, store = pipelines_dir / "faulted.py", tmp_path / "visits"
    fill(str(store), file)
    code_200 = ("tailrace_requests_total", 'pipeline="faulted"', 'code="200"')
    with serving(tmp_path / "log", file, "--store", str(store)) as server:
        url, times = server.predict_url("faulted"), Times(server)
        with load(url, BODIES, rate=RATE, duration_s=2, budget_ms=BUDGET_MS) as report:
            check_answers(report.result(), p99_ms_max=math.inf)
        alone_s = times.means_s()
        answered = server.metric(*code_200)
        assert answered == report.result().shots

        times = Times(server)
        with (
            attacked(server.url) as attacks,
            load(url, BODIES, rate=RATE, duration_s=4, budget_ms=BUDGET_MS) as report,
        ):
            sources = check_answers(report.result(), refused_max=int(RATE), p99_ms_max=math.inf)
        beside_s = times.means_s()
        for attack, allowed in ATTACKS.items():
            told = attacks[attack].result()
            assert set(told) <= allowed, (attack, told)
            assert told.total() >= 5, (attack, told)
        assert set(sources) == {"1"}
        assert server.metric(*code_200) - answered == report.result().statuses[200]  # each once, and none smuggled
        for layer, mean_s in beside_s.items():
            assert mean_s <= GROWTH_MAX * alone_s[layer] + NOISE_S, (layer, alone_s, beside_s)
        assert server.workers()[0]["restarts"] == 0
        wait_for(lambda: server.metric("tailrace_connections") == 0, 15)
