"""The consumer: one process that follows a broker for one stream, and counts its events into the stores.

Started by the supervisor as `python -m tailrace.server.consumer FD`, with FD its control channel, once the ingester is
ready, which has made known to the stores by then what views there are. Where the broker or a store is gone it ends, and
its successor tries again: so a consumer has two states only, it reads or it is not there.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

from tailrace.deadline import MonotonicClock
from tailrace.ingest.origin import StreamOrigin, followed_stream
from tailrace.ingest.routes import streams_of
from tailrace.ingest.run import IngestReport, StreamWriters, ingest_stream
from tailrace.ingest.use import tell_lapses
from tailrace.monitor.layout import consumer_layout
from tailrace.monitor.recorder import ConsumerRecorder
from tailrace.monitor.shared import MetricBlock
from tailrace.server.companion_process import CompanionProcess, run_companion
from tailrace.server.declared import load_all, store_url


class StreamFollower:
    """Counts what a broker has of a stream until it is to stop. A thread reads and counts, and the loop says so."""

    def __init__(self, process: CompanionProcess) -> None:
        self._process = process
        self._stopping = threading.Event()
        self._told = 0

    async def run(self) -> int:
        """Count; return the exit code."""
        process = self._process
        try:
            self._open()
        except Exception as error:  # of what a user's file does, say: the supervisor is to know of it
            return process.fail("start", error)
        process.say_ready()
        counting = asyncio.get_running_loop().run_in_executor(ThreadPoolExecutor(1), self._count)
        beats = asyncio.create_task(process.beat())
        obeying = asyncio.create_task(process.obey())
        await asyncio.wait({counting, beats, obeying}, return_when=asyncio.FIRST_COMPLETED)
        self._stopping.set()
        if obeying.done():
            process.say_draining()
        await asyncio.wait({counting}, timeout=process.task.options.drain_s)
        beats.cancel()
        if not counting.done():
            process.log.error("events are not counted, and come again", origin=self._consumer.where)
            return 1
        if (fault := counting.exception()) is not None:
            return process.fail("go on", fault)
        return 0

    def _open(self) -> None:
        """Load what the pipelines declare, and open the stores and the broker."""
        task = self._process.task
        options, origin = task.options, StreamOrigin.parse(task.origin)
        pipelines = load_all(task.pin)
        self._stream = followed_stream(origin, streams_of(pipelines))
        block = MetricBlock.create(consumer_layout(self._stream.name), task.metrics_fd)
        self._recorder = ConsumerRecorder(block, self._stream.name)
        # A successor has the name of the one before, which is gone, and so takes over at once what that one left.
        name = f"{socket.gethostname()}-{os.getppid()}"
        self._consumer = origin.broker.open(self._stream, group=options.ingest_group, consumer=name)
        # The stores come last: while the broker is gone, the views are not used.
        self._writers = StreamWriters(
            self._stream, pipelines, lambda pipeline: store_url(pipeline, options.store), MonotonicClock()
        )
        tell_lapses(self._writers.lapses, self._process.log.warning)
        self._recorder.set_reading()

    def _count(self) -> None:
        """Count until the process is to stop; what is counted by then is acknowledged to the broker."""
        with closing(self._writers), closing(self._consumer) as consumer:
            ingest_stream(self._stream, consumer, self._writers, self._stopping.is_set, self._note)

    def _note(self, report: IngestReport, lag: int | None) -> None:
        """Show how far it has come, and log where the first events that cannot be read are, not what they hold."""
        self._recorder.record(report.fates, lag)
        for example in report.examples[self._told :]:
            self._process.log.warning("an event cannot be read", cause=example.fault)
        self._told = len(report.examples)


async def _work(process: CompanionProcess) -> int:
    """Run a consumer on the running loop."""
    return await StreamFollower(process).run()


def main(arguments: list[str]) -> int:
    """Run a consumer on the control channel whose descriptor is the last argument."""
    return run_companion("consumer", arguments, _work)


if __name__ == "__main__":
    code = main(sys.argv)
    sys.stdout.flush()
    os._exit(code)  # its thread may wait for a store's lock for ever
