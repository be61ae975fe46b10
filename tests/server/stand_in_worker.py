"""A small real worker for the supervisor's tests: answers every connection with its pid.

The first "file" of the options tells how it behaves: "serve", "fail" (says why it cannot start) or "crash". The
second names a file; while that is there, the start waits. `GET /held` is answered once the worker drains,
`GET /stuck` never.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from pathlib import Path

import uvloop

from tailrace.deadline import Budget
from tailrace.monitor.layout import PipelineShape, worker_layout
from tailrace.monitor.recorder import BatchRecorder, WorkerRecorder
from tailrace.monitor.shared import MetricBlock
from tailrace.server.acceptor import Acceptor
from tailrace.server.channel import WorkerChannel
from tailrace.server.control import (
    Assignment,
    Drain,
    Draining,
    Failed,
    HandBack,
    Listen,
    ListenUnix,
    PipelineReady,
    Ready,
    Warm,
)
from tailrace.server.slots import BACKLOG


class StandInWorker:
    """Serves `pid` to whoever connects."""

    def __init__(self, start: Assignment, channel: WorkerChannel) -> None:
        self.start = start
        self.channel = channel
        self.draining = asyncio.Event()
        self.in_flight: set[asyncio.Task[None]] = set()
        self.servers: dict[int, asyncio.Server] = {}
        self.acceptor: Acceptor | None = None
        shape = PipelineShape("standin", Budget("50ms"), ("Profile",))
        block = MetricBlock.create(worker_layout([shape], start.slot), start.metrics_fd)
        self.gauges = WorkerRecorder(block, start.slot)
        self.recorder = BatchRecorder(block, "standin")

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request and close."""
        task = asyncio.current_task()
        assert task is not None
        self.in_flight.add(task)
        head = await reader.readuntil(b"\r\n\r\n")
        if b"/held" in head:
            await self.draining.wait()
        elif b"/stuck" in head:
            await asyncio.Event().wait()
        body = str(os.getpid()).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        self.recorder.count_batch([0, 10_000, 20_000, 30_000, 40_000, 50_000], 50_000, [0], 1)
        writer.close()
        self.in_flight.discard(task)

    def protocol(self) -> asyncio.StreamReaderProtocol:
        """Return what answers one connection."""
        return asyncio.StreamReaderProtocol(asyncio.StreamReader(), self.answer)

    async def listen(self, slot: int) -> None:
        """Accept on one slot's socket."""
        sock = socket.socket(fileno=self.channel.take_descriptor())
        self.servers[slot] = await asyncio.start_server(self.answer, sock=sock, backlog=BACKLOG)

    async def run(self) -> None:
        """Serve until told to drain."""
        hold = Path(self.start.options.files[1]) if len(self.start.options.files) > 1 else None
        while hold is not None and hold.exists():
            await asyncio.sleep(0.01)
        self.channel.send(Warm())
        beat = asyncio.create_task(self.channel.beat(self.start.options.heartbeat_s))
        while True:
            match await self.channel.receive():
                case Listen(slot=slot):
                    await self.listen(slot)
                    if slot == self.start.slot:
                        self.gauges.set_ready(True)
                        self.channel.send(Ready(os.getpid(), pipelines=(PipelineReady("standin", 50_000_000),)))
                case ListenUnix():
                    self.acceptor = Acceptor(socket.socket(fileno=self.channel.take_descriptor()), self.protocol)
                case HandBack(slot=slot):
                    self.servers.pop(slot).close()
                case Drain() | None:
                    break
        await self.finish()
        beat.cancel()

    async def finish(self) -> None:
        """Take nothing new, and answer what is in flight."""
        for server in self.servers.values():
            server.close()
        if self.acceptor is not None:
            await self.acceptor.drain(shut=False)
        self.draining.set()
        self.channel.send(Draining(len(self.in_flight)))
        if self.in_flight:
            await asyncio.wait(self.in_flight)


async def main() -> None:
    """Behave as the options say."""
    channel = WorkerChannel(int(sys.argv[-1]))
    start = await channel.receive()
    if start.options.files[0] == "fail":
        channel.send(Failed("pipeline.py:3: no such model\n    next: package one"))
        sys.exit(1)
    if start.options.files[0] == "crash":
        os._exit(3)
    await StandInWorker(start, channel).run()


if __name__ == "__main__":
    # As a worker does: asyncio's own loop loses what it accepts in the turn in which a slot is handed back.
    uvloop.run(main())
