"""One request at a time, by a caller on the server's host: Unix socket and TCP, MessagePack and JSON."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from tempfile import mkdtemp
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from figures import Figures
from machine import LOAD_CORE, SERVER_CORE, BenchError, on_core
from part import Line, Part, Session
from peers import start_tailrace

ROUNDS: Final = 11
CALLS: Final = 2_000
"""Of each caller in a round: half a second."""
CALLERS: Final = ("tcp_json", "tcp_msgpack", "uds_json", "uds_msgpack")
DECODERS: Final[dict[str, Callable[[bytes], Any]]] = {"json": msgspec.json.decode, "msgpack": msgspec.msgpack.decode}
ENCODERS: Final[dict[str, Callable[[Any], bytes]]] = {"json": msgspec.json.encode, "msgpack": msgspec.msgpack.encode}


class Caller:
    """A socket and the messages that it sends, one after the other's answer. kind: json or msgpack."""

    def __init__(self, sock: socket.socket, path: str, requests: Sequence[Any], kind: str) -> None:
        self._sock = sock
        self._messages = [message(path, ENCODERS[kind](request), kind) for request in requests]
        self._decode = DECODERS[kind]

    def ask(self, number: int) -> Any:
        """Return the answer to a request. Raises BenchError where it is none."""
        self._sock.sendall(self._messages[number])
        return self._decode(self._receive().partition(b"\r\n\r\n")[2])

    def p50_us(self, calls: int) -> float:
        """Return the median time of a call, from its first byte sent to its answer received."""
        times_ns, messages, clock_ns = [], self._messages, time.perf_counter_ns
        for number in range(calls):
            began_ns = clock_ns()
            self._sock.sendall(messages[number % len(messages)])
            self._receive()
            times_ns.append(clock_ns() - began_ns)
        return median(times_ns) / 1_000

    def _receive(self) -> bytes:
        """Return an answer, which is short and comes in one piece."""
        answer = self._sock.recv(65_536)
        if not answer.startswith(b"HTTP/1.1 200 "):
            raise BenchError(f"front_door: {answer[:200]!r} is no answer")
        return answer


def message(path: str, body: bytes, kind: str) -> bytes:
    """Return the bytes of a request."""
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/{kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def measure(session: Session) -> Figures:
    """Return the medians of the rounds, within which the callers take turns."""
    with ExitStack() as stack:
        session.tell("front door: starting the server")
        path = Path(mkdtemp(prefix="tailrace-")) / "s"  # short enough, wherever the repository is
        stack.callback(path.parent.rmdir)
        server = start_tailrace(stack, cores={SERVER_CORE}, name="tailrace-unix", options=("--unix", str(path)))
        with session.bodies.open("rb") as bodies:
            requests = [msgspec.json.decode(next(bodies)) for _ in range(200)]
        callers = open_callers(stack, server.url, path, requests)
        compare_answers(callers, len(requests))
        p50s_us: dict[str, list[float]] = {name: [] for name in callers}
        rounds = session.pick(ROUNDS, 1)
        stack.enter_context(on_core(LOAD_CORE))
        for number in range(rounds):
            session.tell(f"front door, {number + 1} of {rounds}")
            for name, caller in callers.items():
                p50s_us[name].append(caller.p50_us(session.pick(CALLS, 500)))
    return {"front_door": summarize(p50s_us)}


def open_callers(stack: ExitStack, url: str, path: Path, requests: Sequence[Any]) -> dict[str, Caller]:
    """Return the callers by name, each connected."""
    place = urlsplit(url)
    callers = {}
    for name in CALLERS:
        way, _, kind = name.partition("_")
        if way == "uds":
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.connect(str(path))
        else:
            sock = stack.enter_context(socket.create_connection((place.hostname, place.port)))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.settimeout(10)
        callers[name] = Caller(sock, place.path, requests, kind)
    return callers


def compare_answers(callers: dict[str, Caller], count: int) -> None:
    """Raise BenchError unless all callers are answered the same; it warms them up too."""
    for number in range(count):
        answers = [caller.ask(number) for caller in callers.values()]
        if any(answer != answers[0] for answer in answers):
            raise BenchError(f"front_door: callers are answered differently: {answers}")


def summarize(p50s_us: dict[str, list[float]]) -> Figures:
    """Return the figures of the rounds: each caller's p50, and what the fastest takes of the usual one's."""
    ratios = [uds / tcp for uds, tcp in zip(p50s_us["uds_msgpack"], p50s_us["tcp_json"], strict=True)]
    figures: Figures = {f"{name}_p50_us": round(median(found), 1) for name, found in p50s_us.items()}
    return {"uds_ratio_tcp": round(median(ratios), 3), "uds_p50_us": figures["uds_msgpack_p50_us"]} | figures


def lines(figures: Figures) -> list[Line]:
    """Return the lines of the table."""
    door = figures["front_door"]
    return [
        Line("Unix socket, MessagePack, p50", door["uds_p50_us"], 180, 90, " µs"),
        Line("  to TCP with JSON", door["uds_ratio_tcp"], 0.85, 0.6, "×"),
        Line("TCP, JSON", door["tcp_json_p50_us"], unit=" µs"),
        Line("TCP, MessagePack", door["tcp_msgpack_p50_us"], unit=" µs"),
        Line("Unix socket, JSON", door["uds_json_p50_us"], unit=" µs"),
    ]


PART: Final = Part(
    name="front_door",
    about="a lone caller on the server's host: a Unix socket with MessagePack beside TCP with JSON",
    caveats=(
        "front_door: the caller is a socket in Python that sleeps while it waits; to wake both is part of a call.",
    ),
    steps=lambda session: 1 + session.pick(ROUNDS, 1),
    measure=measure,
    lines=lines,
)
