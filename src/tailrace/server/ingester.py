"""The ingester: one process that counts the events of all workers into the stores, so that none waits for a lock.

Started by the supervisor as `python -m tailrace.server.ingester FD`, with FD its control channel, once a worker has
streams. Each worker's link comes over that channel as a connected socket.
"""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import sys
from collections.abc import Callable
from typing import Final, cast

import structlog

from tailrace.deadline import MonotonicClock
from tailrace.errors import StoreError
from tailrace.ingest.frames import EventFrame, FrameReader, encode_fates
from tailrace.ingest.intake import EventIntake, Waiting
from tailrace.ingest.routes import Routes
from tailrace.ingest.use import USE_NOTE_S, tell_lapses
from tailrace.monitor.layout import ingester_layout
from tailrace.monitor.recorder import EventRecorder
from tailrace.monitor.shared import MetricBlock
from tailrace.server.companion_process import CompanionProcess, run_companion
from tailrace.server.control import CompanionAssignment
from tailrace.server.declared import load_all, store_url

UNSENT_BYTES_MAX: Final = 8 << 20
"""Of fates that a worker does not read; then its link is cut."""


class Ingester:
    """Counts events in until it is to drain."""

    def __init__(self, process: CompanionProcess) -> None:
        self._process = process
        self._links: set[_WorkerLink] = set()

    async def run(self) -> int:
        """Count; return the exit code."""
        process = self._process
        try:
            self._prepare(process.task)
        except Exception as error:  # of what a user's file does in a successor, say: the supervisor is to know of it
            return process.fail("start", error)
        gc.collect()
        gc.freeze()
        process.say_ready()
        counting = asyncio.create_task(self._intake.run())
        beats = asyncio.create_task(process.beat())
        obeying = asyncio.create_task(process.obey(self._take_link))
        noting = asyncio.create_task(self._note_use())
        done, _ = await asyncio.wait({counting, beats, obeying, noting}, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            if (fault := task.exception()) is not None:
                return process.fail("go on", fault)
        process.say_draining(self._intake.waiting)
        is_whole = await self._drain(counting)
        for link in self._links:
            link.close()
        counting.cancel()
        noting.cancel()
        beats.cancel()
        self._intake.close()
        if is_whole:  # else its thread may be within a store
            self._routes.close()
        return 0 if is_whole else 1

    async def _drain(self, counting: asyncio.Task[None]) -> bool:
        """Count what waits; return whether all of it is counted. There may be no supervisor that ends what hangs."""
        draining = asyncio.create_task(self._count_to_end())
        limit_s = self._process.task.options.drain_s
        await asyncio.wait({counting, draining}, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        if draining.done():
            return True
        draining.cancel()
        self._process.log.error(
            "events are not counted, and not acknowledged", calls=self._intake.waiting, drain_s=limit_s
        )
        return False

    async def _count_to_end(self) -> None:
        """Count what waits, then note that the stream views are used no more; nothing is under way when this returns.

        Workers may outlive the supervisor, and go on sending. What they send from here on stays unread in their links,
        which are closed soon: it would be counted behind the note of the end, in stores that are being closed.
        """
        await self._intake.drain()
        for link in self._links:
            link.pause()
        await self._note(self._routes.end_use)
        await self._intake.drain()

    def _prepare(self, task: CompanionAssignment) -> None:
        """Load what the pipelines declare, and open the stores of their streams.

        Before the release is served, a view that lacks its history is refused here as in a worker, which asks later.
        """
        declared = load_all(task.pin)
        override = task.options.store
        self._routes = Routes(
            declared, lambda pipeline: store_url(pipeline, override), MonotonicClock(),
            refuse=not task.pin.served_file.exists(),
        )  # fmt: skip
        tell_lapses(self._routes.lapses, self._process.log.warning)
        layout = ingester_layout([stream.name for stream in self._routes.streams])
        block = MetricBlock.create(layout, task.metrics_fd)
        self._recorder = EventRecorder(block)
        self._intake = EventIntake(self._routes.routes, self._recorder.count)

    async def _note_use(self) -> None:
        """Note again and again that the stream views are used; a store that cannot be written is asked later."""
        while True:
            await asyncio.sleep(USE_NOTE_S)
            await self._note(self._routes.note_use)

    async def _note(self, note: Callable[[], None]) -> None:
        """Note something of the use of the stream views, between two groups of events."""
        try:
            await self._intake.between(note)
        except StoreError as error:
            self._process.log.warning("the use of stream views is not noted", cause=str(error))

    async def _take_link(self, descriptor: int) -> None:
        """Take events from a worker."""
        loop = asyncio.get_running_loop()
        sock = socket.socket(fileno=descriptor)
        await loop.create_connection(lambda: _WorkerLink(self._intake, self._links), sock=sock)


class _WorkerLink(asyncio.Protocol):
    """The link of one worker."""

    def __init__(self, intake: EventIntake, links: set[_WorkerLink]) -> None:
        self._intake = intake
        self._links = links
        self._reader = FrameReader(EventFrame)
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self._transport = cast(asyncio.Transport, transport)
        self._links.add(self)

    def data_received(self, data: bytes) -> None:
        """Take events."""
        try:
            for frame in self._reader.read(data):
                self._take(frame)
        except ValueError as error:
            self._cut(str(error))

    def _cut(self, cause: str) -> None:
        """Let go at once; the worker asks for another link."""
        structlog.get_logger().warning("a worker's link is cut", cause=cause)
        self._transport.abort()

    def _take(self, frame: EventFrame) -> None:
        def answer(fates: bytes | None, why: str) -> None:
            if self._transport.get_write_buffer_size() > UNSENT_BYTES_MAX:
                self._cut("the worker does not read")
            elif not self._transport.is_closing():
                self._transport.write(encode_fates(frame.number, fates, why))

        self._intake.take(Waiting(frame.route, frame.events, answer))

    def connection_lost(self, error: Exception | None) -> None:
        """Forget the link; what it has brought is counted all the same."""
        self._links.discard(self)

    def pause(self) -> None:
        """Read no more; answers are still sent."""
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def close(self) -> None:
        """Send what is left, and let go."""
        self._transport.close()


async def _work(process: CompanionProcess) -> int:
    """Run an ingester on the running loop."""
    return await Ingester(process).run()


def main(arguments: list[str]) -> int:
    """Run an ingester on the control channel whose descriptor is the last argument."""
    return run_companion("ingester", arguments, _work)


if __name__ == "__main__":
    code = main(sys.argv)
    sys.stdout.flush()
    os._exit(code)  # its thread may wait for a store's lock for ever
