"""The observer: one process that is told of what all workers have predicted, and keeps and watches it.

Started by the supervisor as `python -m tailrace.server.observing.observer FD`, with FD its control channel. Each
worker's slot has a ring in shared memory, which the observer drains: workers wait for nothing of it, and where it does
not keep up, or is gone, the oldest frames are overwritten, which is counted. Its watches (watches.py) are told of what
was read: the prediction log, which is written once a second by a thread, drift, and others. A ring is told that frames
are kept only when they are written, so that they are read again where the observer dies before. A line may so be there
twice, but none is lost for that.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import time
from contextlib import suppress
from itertools import islice
from typing import Final

from tailrace.core_share import give_way
from tailrace.monitor.counts.prediction import PredictionCounts
from tailrace.monitor.frames import FrameReader
from tailrace.monitor.layout import observer_layout
from tailrace.monitor.observed import Observed
from tailrace.monitor.ring import RingReader
from tailrace.monitor.seldom import Seldom
from tailrace.monitor.shared import MetricBlock
from tailrace.server.companion_process import CompanionProcess, run_companion
from tailrace.server.declared import load_all
from tailrace.server.observing.watches import Watch, open_watches

NICE: Final = 5
"""It comes after the workers, where cores are few, and before what refreshes views."""
LOOK_S: Final = 0.05
"""How often the rings are looked at."""
WRITE_S: Final = 1.0
"""How long what was read waits to be written: what is lost at most, where the machine fails."""
FRAMES_A_TURN: Final = 8
"""Frames of a ring that are read before the loop sees to other things."""
CLOSE_S: Final = 5.0


class Observer:
    """Drains the rings until it is to stop."""

    def __init__(self, process: CompanionProcess) -> None:
        self._process = process
        self._watches: tuple[Watch, ...] = ()
        self._ending = asyncio.Event()
        self._seldom = Seldom(process.log)

    async def run(self) -> int:
        """Observe; return the exit code."""
        process = self._process
        try:
            self._prepare()
        except Exception as error:  # of what a user's file does in a successor, say: the supervisor is to know of it
            return process.fail("start", error)
        gc.collect()
        gc.freeze()
        process.say_ready()
        draining = asyncio.create_task(self._drain())
        writing = asyncio.create_task(self._write_often())
        beats = asyncio.create_task(process.beat())
        obeying = asyncio.create_task(process.obey())
        done, _ = await asyncio.wait({draining, writing, beats, obeying}, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            if (fault := task.exception()) is not None:
                return process.fail("go on", fault)
        process.say_draining()
        draining.cancel()
        await self._close(writing)
        beats.cancel()
        return 0

    def _prepare(self) -> None:
        """Take over the rings, and open the watches."""
        task = self._process.task
        declared = load_all(task.pin)
        block = MetricBlock.create(observer_layout([each.name for each in declared]), task.metrics_fd)
        self._counts = PredictionCounts(block)
        self._rings = [RingReader(fd) for fd in task.ring_fds]
        self._frames = FrameReader()
        self._watches = open_watches(task, declared, block, self._counts)
        give_way(NICE)

    async def _drain(self) -> None:
        """Read what workers write, until cancelled."""
        while True:
            if not await self._read_all():
                await asyncio.sleep(LOOK_S)

    async def _read_all(self) -> bool:
        """Read some frames of each ring; return whether there may be more."""
        more = False
        for ring in self._rings:
            for data in islice(ring.read(), FRAMES_A_TURN):
                self._take(data)
            self._counts.lose("overwritten", ring.take_lost())
            more |= bool(ring.waiting_bytes)
            await asyncio.sleep(0)
        return more

    def _take(self, data: bytes) -> None:
        """Take one frame in."""
        try:
            found = self._frames.read(data)
        except Exception as error:  # a successor would come to the same frame, and die of it again
            self._counts.lose("unreadable", 1)
            self._seldom.warn("a frame of a worker cannot be read", cause=str(error))
            return
        for watch in self._watches:
            try:
                watch.take(found)
            except Exception as error:  # of ours: a successor would come to the same frame, and die of it again
                self._fail(watch, "hear of", error)

    async def _write_often(self) -> None:
        """Write what was read, again and again, until the end."""
        while not self._ending.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), WRITE_S)
            await self._write()

    async def _write(self) -> None:
        """Have what was read written by a thread, and say what there is to show, also while a disk hangs."""
        marks = [ring.mark for ring in self._rings]
        writing = asyncio.ensure_future(asyncio.to_thread(self._write_all))
        while not (await asyncio.wait({writing}, timeout=WRITE_S))[0]:
            self._say_observed()
        if writing.result():
            for ring, mark in zip(self._rings, marks, strict=True):
                ring.keep(mark)
        self._say_observed()

    def _say_observed(self) -> None:
        """Say what there is to show."""
        observed = Observed(at_s=time.time())
        for watch in self._watches:
            try:
                watch.tell(observed)
            except Exception as error:
                self._fail(watch, "tell of", error)
        if not self._process.say_observed(observed):
            self._seldom.warn("what is observed is too much to be shown")

    def _write_all(self) -> bool:
        """Have each watch write; on a thread. Return whether all have."""
        is_whole = True
        for watch in self._watches:
            try:
                watch.write()
            except Exception as error:  # of the disk, nearly always; the next watch is not to wait for it
                is_whole = False
                if not isinstance(error, OSError):
                    self._process.log.error("predictions cannot be written", error=repr(error), exc_info=error)
        return is_whole

    async def _close(self, writing: asyncio.Task[None]) -> None:
        """Read and write what is left; a disk that hangs is not waited for."""
        while await self._read_all():
            pass
        self._ending.set()
        try:
            async with asyncio.timeout(CLOSE_S):
                await writing
                await self._write()
                for watch in self._watches:
                    await asyncio.to_thread(watch.close)
        except TimeoutError:
            self._process.log.error("predictions are not logged", cause="the disk takes nothing")

    def _fail(self, watch: Watch, what: str, error: Exception) -> None:
        """Log what a watch could not do; the others go on."""
        name = type(watch).__name__
        self._seldom.warn(f"{name} cannot {what} predictions", error=repr(error), exc_info=error)


async def _work(process: CompanionProcess) -> int:
    """Run an observer on the running loop."""
    return await Observer(process).run()


def main(arguments: list[str]) -> int:
    """Run an observer on the control channel whose descriptor is the last argument."""
    return run_companion("observer", arguments, _work)


if __name__ == "__main__":
    code = main(sys.argv)
    sys.stdout.flush()
    os._exit(code)  # its thread may wait for a disk for ever
