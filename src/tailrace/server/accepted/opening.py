"""The parts of a worker that take accepted requests, put together from the settings."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from typing import Any, Protocol

from tailrace.deadline import Clock
from tailrace.loop_load import LoopLoad
from tailrace.server.accepted.backlog import Backlog
from tailrace.server.accepted.endpoint import Acceptance, AcceptingEndpoint
from tailrace.server.accepted.journal import Journal
from tailrace.server.accepted.journal_thread import JournalThread
from tailrace.server.endpoint import Endpoint
from tailrace.server.options import ServeOptions


def open_journal(options: ServeOptions) -> Journal:
    """Return the journal of a server. Raises StoreError."""
    assert options.accepted is not None
    return Journal(
        os.path.abspath(options.accepted), entries_max=options.accepted_max, bytes_max=options.accepted_bytes_max,
        retention_s=options.accepted_retention_s,
    )  # fmt: skip


class Counts(Protocol):
    """Counts what is accepted."""

    def count(self, pipeline: str) -> None:
        """Count one request of a pipeline."""
        ...


class Accepting:
    """One worker's side of accepting: what takes requests, and what scores them. Raises StoreError.

    endpoints: of the pipelines; to those that declare where results go, one is added that accepts.
    """

    def __init__(
        self, endpoints: Iterable[Endpoint], options: ServeOptions, slot: int, load: LoopLoad,
        clock: Clock, release: str, counts: Counts, log: Any,
    ) -> None:  # fmt: skip
        takers = {each.name: each for each in endpoints if each.engine.plan.pipeline.results is not None}
        self._thread = JournalThread(open_journal(options))
        self._scoring: asyncio.Task[None] | None = None
        self.backlog = Backlog(self._thread, slot, options.workers, takers, load, clock, release, log)
        acceptance = Acceptance(self._thread, slot, self.backlog.wake, counts.count)
        for endpoint in takers.values():
            endpoint.accepting = AcceptingEndpoint(endpoint, endpoint.offer, acceptance)

    def start(self) -> asyncio.Task[None]:
        """Begin to score what waits; return the task of it."""
        self._scoring = asyncio.get_running_loop().create_task(self.backlog.run())
        return self._scoring

    async def close(self, within_s: float) -> None:
        """Have on disk what is under way, and let go."""
        self.backlog.stop()
        if self._scoring is not None:
            await asyncio.wait({self._scoring}, timeout=within_s)
            self._scoring.cancel()
        self._thread.close()
