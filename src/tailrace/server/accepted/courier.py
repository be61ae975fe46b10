"""The courier: one process that delivers the results of accepted requests, and forgets what is over its time.

Started by the supervisor with `--accepted`, as `python -m tailrace.server.accepted.courier FD`, with FD its control
channel. Whatever a receiver does, hangs or answers slowly, no worker waits for it.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

from tailrace.core_share import give_way
from tailrace.errors import SetupError, StoreError
from tailrace.monitor.counts.accepted import CourierCounts
from tailrace.monitor.layout import courier_layout
from tailrace.monitor.shared import MetricBlock
from tailrace.pipeline import Pipeline
from tailrace.server.accepted.deliveries import TAKEN_MAX, Deliveries, Route, sender_of
from tailrace.server.accepted.journal import Journal
from tailrace.server.accepted.journal_thread import JournalThread
from tailrace.server.accepted.opening import open_journal
from tailrace.server.accepted.secrets import Secrets
from tailrace.server.companion_process import CompanionProcess, run_companion
from tailrace.server.declared import load_all

LOOK_S: Final = 0.05
"""How often the journal is looked into: a result waits for so long at most."""
STATE_S: Final = 1.0
FINISH_S: Final = 2.0
"""How long what is being sent may take when the server stops; the next process sends what is not known to be there."""
NICE: Final = 10
LOCK_FILE: Final = "courier.lock"


class Courier:
    """Delivers until it is to drain."""

    def __init__(self, process: CompanionProcess) -> None:
        self._process = process
        self._ended = asyncio.Event()
        self._looked_s = 0.0

    async def run(self) -> int:
        """Deliver; return the exit code."""
        process = self._process
        try:
            self._prepare()
        except Exception as error:  # of what a user's file does, say: the supervisor is to know of it
            return process.fail("start", error)
        process.say_ready()
        delivering = asyncio.create_task(self._deliver())
        beats = asyncio.create_task(process.beat())
        obeying = asyncio.create_task(process.obey())
        done, _ = await asyncio.wait({delivering, beats, obeying}, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            if (fault := task.exception()) is not None:
                return process.fail("go on", fault)
        process.say_draining(len(self._deliveries.under_way))
        delivering.cancel()
        with suppress(StoreError):
            await self._begin_new()  # what the workers have left in these last moments
        await self._finish()
        self._deliveries.stop()
        self._thread.close()
        beats.cancel()
        return 0

    def _prepare(self) -> None:
        """Load what the pipelines declare, and open the journal."""
        task = self._process.task
        declared = [each for each in load_all(task.pin) if each.results is not None]
        if not declared:
            raise SetupError("no pipeline declares results", where="accepted",
                             next="write results=tr.Webhook(…) in one, or leave --accepted out")  # fmt: skip
        block = MetricBlock.create(courier_layout([each.name for each in declared]), task.metrics_fd)
        self._counts = CourierCounts(block)
        journal = open_journal(task.options)
        self._lock = _locked(Path(journal.path), journal)
        self._thread = JournalThread(journal)
        routes = {each.name: self._route(each) for each in declared}
        self._deliveries = Deliveries(self._thread, routes, self._ended.set, self._process.log)
        give_way(NICE)  # but for the thread above, which holds the journal's lock

    def _route(self, pipeline: Pipeline) -> Route:
        assert pipeline.results is not None
        log, where = self._process.log, f"{pipeline.name}.results"
        secrets = Secrets(pipeline.results, pipeline.base_dir, where, log)
        count = partial(self._counts.count, pipeline.name)
        return Route(pipeline.results, sender_of(pipeline.results), secrets, count, log)

    async def _deliver(self) -> None:
        """Deliver what comes, and look after the journal once a second."""
        while True:
            self._ended.clear()
            try:
                begun = await self._begin_new()
                if time.monotonic() >= self._looked_s + STATE_S:
                    self._looked_s = time.monotonic()
                    await self._look_after()
            except StoreError as error:
                self._process.log.error("results cannot be read", cause=str(error))
                await asyncio.sleep(STATE_S)
                continue
            if not begun:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._ended.wait(), LOOK_S)

    async def _begin_new(self) -> int:
        """Begin with the results that nobody has begun with; return how many."""
        rooms, under_way = self._deliveries.rooms(), frozenset(self._deliveries.under_way)
        found = await self._thread.do(partial(self._thread.journal.results, TAKEN_MAX, under_way, rooms=rooms))
        for result in found:
            self._deliveries.begin(result)
        return len(found)

    async def _look_after(self) -> None:
        """Forget what is over its time, and show what there is."""
        journal, now_ns = self._thread.journal, time.time_ns()
        purged = await self._thread.do(partial(journal.purge, now_ns))
        state = await self._thread.do(partial(journal.state, now_ns))
        self._counts.show(state.waiting, state.results, state.set_aside, state.oldest_ns)
        if purged:
            self._looked_s = 0.0  # there may be more

    async def _finish(self) -> None:
        """Wait for what is being sent; what waits for another try is left to the next process."""
        tasks = set(self._deliveries.under_way.values())
        if tasks:
            await asyncio.wait(tasks, timeout=min(self._process.task.options.drain_s, FINISH_S))


def _locked(directory: Path, journal: Journal) -> int:
    """Return the lock of a directory: two couriers would send everything twice."""
    descriptor = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        journal.close()
        raise SetupError("another server delivers from this directory", where=str(directory),
                         next="give each server a directory of its own: --accepted DIR") from None  # fmt: skip
    return descriptor


async def _work(process: CompanionProcess) -> int:
    """Run a courier on the running loop."""
    return await Courier(process).run()


def main(arguments: list[str]) -> int:
    """Run a courier on the control channel whose descriptor is the last argument."""
    return run_companion("courier", arguments, _work)


if __name__ == "__main__":
    code = main(sys.argv)
    sys.stdout.flush()
    os._exit(code)  # its threads may wait for a disk, or for Redis
