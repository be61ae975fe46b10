"""What the Python client takes of its own core a call, beyond a raw socket that sends the same bytes."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Final, cast

import uvloop

from figures import Figures
from machine import LOAD_CORE, on_core
from part import Line, Part, Session
from peer_venv import NoPeerError, clean_environment, make_venv
from peers import WORKPLACE
from tailrace.client import AsyncClient, Client

HERE: Final = Path(__file__).parent
ROUNDS: Final = 9
CALLS: Final = 2_000
PEER_CALLS: Final = 300
REQUIREMENTS: Final = ("aiohttp>=3.11,<4", "httpx>=0.28,<1")
PATH: Final = "/v1/pipelines/log/predict"
REQUEST: Final = {f"f{i}": i * 1.5 for i in range(24)}


def message() -> bytes:
    """Return the bytes of a call, as the client sends it."""
    body = json.dumps(REQUEST, separators=(",", ":")).encode()
    head = (f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nX-Budget-Ms: 1000\r\n"
            f"Content-Length: {len(body)}\r\n\r\n")  # fmt: skip
    return head.encode() + body


class Raw(asyncio.Protocol):
    """A connection that sends and waits, and does nothing else."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Take the answer, which comes in one piece."""
        self._answer.set_result(data)

    def ask(self, sent: bytes) -> asyncio.Future[bytes]:
        """Send a call; return what its answer will be in."""
        self._answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._transport.write(sent)
        return self._answer


class Callers:
    """The four ways to call: a raw socket and the client, each waiting in the kernel and on a loop."""

    def __init__(self, port: int, stack: ExitStack) -> None:
        url = f"http://127.0.0.1:{port}"
        self._sent = message()
        self._sock = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._client = stack.enter_context(Client(url))
        self._runner = stack.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))
        self._asynchronous = AsyncClient(url)
        stack.callback(lambda: self._runner.run(self._asynchronous.close()))
        self._raw = self._runner.run(self._connect(port))

    def ways(self) -> dict[str, Callable[[int], None]]:
        """Return what makes so many calls, by its name."""
        return {
            "raw_sync": self._by_socket,
            "sync": self._by_client,
            "raw_async": lambda calls: self._runner.run(self._by_protocol(calls)),
            "async": lambda calls: self._runner.run(self._by_async_client(calls)),
        }

    async def _connect(self, port: int) -> Raw:
        return (await asyncio.get_running_loop().create_connection(Raw, "127.0.0.1", port))[1]

    def _by_socket(self, calls: int) -> None:
        for _ in range(calls):
            self._sock.sendall(self._sent)
            self._sock.recv(65_536)

    def _by_client(self, calls: int) -> None:
        for _ in range(calls):
            self._client.predict("log", REQUEST)

    async def _by_protocol(self, calls: int) -> None:
        for _ in range(calls):
            await self._raw.ask(self._sent)

    async def _by_async_client(self, calls: int) -> None:
        for _ in range(calls):
            await self._asynchronous.predict("log", REQUEST)


class Peers:
    """httpx and aiohttp, in a process and a venv of their own. Raises NoPeerError where they cannot be had."""

    def __init__(self, port: int, calls: int, stack: ExitStack) -> None:
        python = make_venv(WORKPLACE / "client-peers", *REQUIREMENTS)
        command = [str(python), str(HERE / "peer_client.py"), f"http://127.0.0.1:{port}{PATH}", str(calls)]
        self._process = stack.enter_context(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=clean_environment())
        )

    def call_us(self, name: str) -> float:
        """Return what a call takes of the core."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{name}\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())


def call_us(way: Callable[[int], None], calls: int) -> float:
    """Return what a call takes of the core."""
    began_ns = time.process_time_ns()
    way(calls)
    return (time.process_time_ns() - began_ns) / calls / 1_000


def measure(session: Session) -> Figures:
    """Return the medians of the rounds, within which the callers take turns."""
    rounds, calls = session.pick(ROUNDS, 2), session.pick(CALLS, 300)
    found_us: dict[str, list[float]] = {}
    with ExitStack() as stack:
        session.tell("front door: the Python client")
        server = stack.enter_context(
            subprocess.Popen([sys.executable, str(HERE / "constant_answer.py")], stdout=subprocess.PIPE, text=True)
        )
        stack.callback(server.kill)
        assert server.stdout is not None
        port = int(server.stdout.readline())
        stack.enter_context(on_core(LOAD_CORE))
        ways = Callers(port, stack).ways()
        try:
            peers: Peers | None = Peers(port, session.pick(PEER_CALLS, 50), stack)
        except NoPeerError as error:
            peers = None
            session.notes.append(f"front_door_client: no httpx and aiohttp: {error}")
        for _ in range(1 + rounds):  # the first warms up
            for name, way in ways.items():
                found_us.setdefault(name, []).append(call_us(way, calls))
            for name in ("httpx", "aiohttp") if peers is not None else ():
                found_us.setdefault(name, []).append(peers.call_us(name))
    return {"front_door": summarize({name: found[1:] for name, found in found_us.items()})}


def summarize(found_us: dict[str, list[float]]) -> Figures:
    """Return the medians: of what comes beyond a raw socket, the median of the rounds' differences."""

    def beyond(name: str, raw: str) -> float | None:
        pairs = zip(found_us.get(name, ()), found_us[raw], strict=False)
        differences = [mine - least for mine, least in pairs]
        return round(median(differences), 1) if differences else None

    return {
        "client_sync_us": beyond("sync", "raw_sync"),
        "client_async_us": beyond("async", "raw_async"),
        "httpx_us": beyond("httpx", "raw_sync"),
        "aiohttp_us": beyond("aiohttp", "raw_async"),
        "raw_sync_us": round(median(found_us["raw_sync"]), 1),
        "raw_async_us": round(median(found_us["raw_async"]), 1),
    }


def lines(figures: Figures) -> list[Line]:
    """Return the lines of the table."""
    door = figures["front_door"]
    return [
        Line("Python client, CPU a call beyond a raw socket", door["client_sync_us"], 60, 30, " µs"),
        Line("  httpx", door["httpx_us"], unit=" µs"),
        Line("Python client, asynchronous", door["client_async_us"], 40, 25, " µs"),
        Line("  aiohttp", door["aiohttp_us"], unit=" µs"),
    ]


PART: Final = Part(
    name="front_door_client",
    about="the Python client's own core a call beyond a raw socket with the same bytes; httpx and aiohttp beside it",
    caveats=("front_door_client: one call at a time, to a server that answers all the same, on the other core.",),
    steps=lambda session: 1,
    measure=measure,
    lines=lines,
)
