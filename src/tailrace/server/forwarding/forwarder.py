"""The forwarder: one process that sends the prediction log on to one sink, from the disk on which it is kept first.

Started by the supervisor as `python -m tailrace.server.forwarding.forwarder FD`, with FD its control channel. What the
sink has is noted beside the log, so a sink that is gone for hours, and a forwarder that dies, cost nothing but time:
all is sent that the log still has by then. Lines may come twice, where it died between sending and noting.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final

from tailrace.core_share import give_way
from tailrace.monitor.counts.forwarder import ForwarderCounts
from tailrace.monitor.layout import forwarder_layout
from tailrace.monitor.shared import MetricBlock
from tailrace.server.companion_process import CompanionProcess, run_companion
from tailrace.server.forwarding.address import SinkAddress
from tailrace.server.forwarding.follower import LogFollower
from tailrace.server.forwarding.json_lines import json_lines
from tailrace.server.forwarding.positions import Positions
from tailrace.server.forwarding.sinks import FileSink, Line, LineSink, SinkError, open_line_sink

NICE: Final = 10
LOOK_S: Final = 1.0
PART_BYTES: Final = 1 << 20
"""Of lines that are sent at once, about."""
RETRY_S_MAX: Final = 30.0
LOG_S: Final = 60.0
CLOSE_S: Final = 5.0
NOTE_S: Final = 1.0
"""How often it is noted how far it came: what is sent again where it dies in the midst of a long backlog."""


class Forwarding:
    """Sends what is new in a log to one sink, again and again, on a thread. is_over: whether it is to stop."""

    def __init__(self, root: Path, address: SinkAddress, counts: ForwarderCounts, warn: Callable[..., object]) -> None:
        self._root, self._address = root, address
        self._counts, self._warn = counts, warn
        self._stopping = threading.Event()
        self._lines: LineSink | None = None
        self._files: FileSink | None = None
        self._warned_s = -LOG_S
        self._whole_s = self._noted_s = time.monotonic()

    def stop(self) -> None:
        """Have it stop, once it has sent what there is."""
        self._stopping.set()

    def run(self) -> None:
        """Send until told to stop."""
        positions = self._positions()
        if positions is None:
            return
        follower = LogFollower(self._root, positions)
        wait_s = LOOK_S
        while True:
            is_last = self._stopping.is_set()
            try:
                self._send(follower, positions)
                wait_s = LOOK_S
            except (SinkError, OSError) as error:
                follower.begin_again()
                self._tell(error)
                wait_s = min(2 * wait_s, RETRY_S_MAX)
            self._show(follower)
            if is_last:
                break
            self._stopping.wait(wait_s)
        positions.close()
        if self._lines is not None:
            self._lines.close()

    def _positions(self) -> Positions | None:
        """Return the positions once no other process has them; None where it is to stop before."""
        while not self._stopping.is_set():
            try:
                return Positions(self._root, self._address.shown)
            except OSError as error:
                if not isinstance(error, BlockingIOError):  # else another server sends the same log
                    self._tell(error)
            self._stopping.wait(LOOK_S)
        return None

    def _send(self, follower: LogFollower, positions: Positions) -> None:
        """Send what there is, and note now and then how far it came, also where that fails."""
        follower.look()
        try:
            for _ in self._sent_lines(follower) if self._address.takes_lines else self._sent_files(follower):
                if time.monotonic() >= self._noted_s + NOTE_S:
                    with suppress(OSError):  # of a full disk, say: in the end it is told
                        positions.save()
                    self._show(follower)
                    self._noted_s = time.monotonic()
        finally:
            positions.save()
        self._whole_s = time.monotonic()

    def _sent_lines(self, follower: LogFollower) -> Iterator[None]:
        """Send lines; say after each part that it was sent."""
        for pipeline, position, batch in follower.lines():
            if self._lines is None:
                self._lines = open_line_sink(self._address)
            for part in parts(json_lines(pipeline, batch)):
                refused = self._lines.send(part)
                position.sent += len(part)
                self._counts.send(len(part) - refused)
                self._counts.lose(refused)
                yield

    def _sent_files(self, follower: LogFollower) -> Iterator[None]:
        """Send whole files; say so after each."""
        for path, position in follower.files():
            if self._files is None:
                self._files = FileSink(self._address)
            with suppress(FileNotFoundError):  # it was swept: the next look counts it
                self._files.put(self._root, path)
                self._counts.send(position.total - position.sent)
                position.sent = position.total
            yield

    def _show(self, follower: LogFollower) -> None:
        lost, follower.lost = follower.lost, 0
        self._counts.lose(lost)
        waiting_ns = int((time.monotonic() - self._whole_s) * 1e9)
        self._counts.show(follower.waiting_bytes(with_drafts=self._address.takes_lines), waiting_ns)

    def _tell(self, error: Exception) -> None:
        """Log a fault, at most once a minute."""
        if time.monotonic() >= self._warned_s + LOG_S:
            self._warned_s = time.monotonic()
            self._warn("the log waits for its sink", sink=self._address.shown, cause=str(error))


def parts(lines: Iterable[Line]) -> Iterator[list[Line]]:
    """Give lines together that are sent at once: some of them may be large."""
    part: list[Line] = []
    size = 0
    for line in lines:
        part.append(line)
        size += len(line.value)
        if size >= PART_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part


async def _work(process: CompanionProcess) -> int:
    """Forward on the running loop's thread pool; return the exit code."""
    task = process.task
    try:
        address = SinkAddress.parse(task.origin)
        assert task.options.log is not None, "it is started for the log"
        counts = ForwarderCounts(MetricBlock.create(forwarder_layout(address.shown), task.metrics_fd), address.shown)
        forwarding = Forwarding(Path(task.options.log), address, counts, process.log.warning)
    except Exception as error:  # of a library that is missing, say: the supervisor is to know of it
        return process.fail("start", error)
    give_way(NICE)
    process.say_ready()
    sending = asyncio.get_running_loop().run_in_executor(ThreadPoolExecutor(1), forwarding.run)
    beats = asyncio.create_task(process.beat())
    obeying = asyncio.create_task(process.obey())
    await asyncio.wait({sending, beats, obeying}, return_when=asyncio.FIRST_COMPLETED)
    forwarding.stop()
    process.say_draining()
    await asyncio.wait({sending}, timeout=CLOSE_S)
    beats.cancel()
    if not sending.done():
        process.log.warning(
            "the log is not sent on to its end, and is when the server starts again", sink=address.shown
        )
        return 0
    if (fault := sending.exception()) is not None:
        return process.fail("go on", fault)
    return 0


def main(arguments: list[str]) -> int:
    """Run a forwarder on the control channel whose descriptor is the last argument."""
    return run_companion("forwarder", arguments, _work)


if __name__ == "__main__":
    code = main(sys.argv)
    sys.stdout.flush()
    os._exit(code)  # its thread may wait for a sink for long
