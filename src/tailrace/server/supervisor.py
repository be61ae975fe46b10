"""The supervisor: owns the listening sockets, the metric blocks, the workers and the admin port. Carries no traffic.

A worker that dies, or says nothing for `frozen_s`, is replaced in its slot; until its successor is ready a sibling
accepts on the slot's socket. A worker that cannot start at the first start ends the supervisor with its error.
"""

from __future__ import annotations

import asyncio
import os
import platform
import resource
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

import msgspec
import uvloop

from tailrace.monitor.snapshot import Key, MergedMetrics, merge_blocks, pipeline_snapshots
from tailrace.server.admin import AdminServer, Status, WorkerStatus
from tailrace.server.control import Adopt, Assignment, HandBack
from tailrace.server.logging import configure_logging, logger, tell
from tailrace.server.options import ServeOptions
from tailrace.server.process import WORKER_COMMAND, WorkerProcess
from tailrace.server.slots import Slot, open_slots, turn_away

BACKOFF_FIRST_S: Final = 0.1
BACKOFF_MAX_S: Final = 5.0
SHORT_LIFE_S: Final = 5.0
"""A worker that dies sooner after it was ready has its successor wait a little, each time twice as long."""
_SAMPLE_S: Final = 5.0
"""How often the counters are kept for /status's recent figures; they cover one to two of these."""
_FILES_SPARE: Final = 64
"""Open files of a worker besides its connections and two a slot: stores, which are opened anew, and channels."""
_KILLED_S: Final = 5.0
"""How long a killed process may take to be gone."""


class Addresses(NamedTuple):
    """Where the supervisor serves, once it is ready."""

    host: str
    port: int
    admin_host: str
    admin_port: int


class Supervisor:
    """Runs the workers of one `tailrace serve`.

    worker_command: started once a slot, with the descriptor of its control channel as the last argument.
    announce: called once, when every worker is ready for the first time.
    """

    def __init__(
        self,
        options: ServeOptions,
        *,
        worker_command: Sequence[str] = WORKER_COMMAND,
        announce: Callable[[Addresses], None] | None = None,
    ) -> None:
        self.options = options
        self._command = tuple(worker_command)
        self._announce = announce
        self._slots: list[Slot] = []
        self._admin = AdminServer(self, options.admin_token)
        self._started_s = time.monotonic()
        self._address: tuple[str, int] = (options.host, options.port)
        self._samples: deque[MergedMetrics] = deque(maxlen=2)
        self._failure: str | None = None
        self._was_ready = False
        self._log = logger(pid=os.getpid())

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT; return the exit code: 0 after a drain, 1 when the start failed."""
        configure_logging()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(self.serve())

    async def serve(self) -> int:
        """Do the work of `run` on the running loop."""
        self._stopping = asyncio.Event()
        self._fit_files()
        options = self.options
        self._slots = open_slots(options.host, options.port, options.workers)
        name = self._slots[0].listener.getsockname()
        self._address = (name[0], name[1])
        try:
            await self._admin.open(options.admin_host, options.admin_port)
            self._handle_signals()
            self._log.info("starting", workers=options.workers, files=list(options.files))
            keepers = [asyncio.create_task(self._keep(slot)) for slot in self._slots]
            watchers = [asyncio.create_task(self._watch()), asyncio.create_task(self._sample())]
            await self._serve_on([*keepers, *watchers])
            await self._drain(keepers)
            for task in watchers:
                task.cancel()
            await asyncio.gather(*watchers, return_exceptions=True)
        finally:
            self._admin.close()
            for slot in self._slots:
                slot.close()
        if self._failure is not None:
            tell(f"error: {self._failure}")
            return 1
        self._log.info("stopped", uptime_s=round(time.monotonic() - self._started_s, 1))
        return 0

    def _fit_files(self) -> None:
        """Take all the open files that the system gives, and no more connections than those: what is over gets a 503.

        Without, the loop would accept what it has no file for and drop it, without a word.
        """
        files_max, wanted = _raise_files_max(), self.options.connections_max
        room = max(files_max - _FILES_SPARE - 2 * self.options.workers, 1)
        if room < wanted:
            self.options = msgspec.structs.replace(self.options, connections_max=room)
            self._log.warning(
                "the limit of open files is under connections_max",
                connections_max=wanted,
                files_max=files_max,
                used=room,
            )

    async def _serve_on(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        """Serve until told to stop, or until a task ends that should not: without it no worker would be replaced."""
        stopping = asyncio.create_task(self._stopping.wait())
        done, _ = await asyncio.wait({stopping, *tasks}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        self._blame([task for task in tasks if task in done])

    # Starting and replacing

    async def _keep(self, slot: Slot) -> None:
        """Keep one slot's worker running until the supervisor stops."""
        delay_s = 0.0
        while not self._stopping.is_set():
            try:
                worker = await WorkerProcess.spawn(self._command, self._start_of(slot))
            except OSError as error:
                self._log.error("worker cannot be spawned", slot=slot.index, error=str(error))
                if not self._was_ready:
                    self._fail(f"the worker cannot be spawned: {error}")
            else:
                await self._follow(slot, worker)
                lived = worker.ready is not None and time.monotonic() - worker.ready_since_s >= SHORT_LIFE_S
                delay_s = 0.0 if lived else delay_s
            if not self._stopping.is_set():
                slot.restarts += 1
                delay_s = min(max(2 * delay_s, BACKOFF_FIRST_S), BACKOFF_MAX_S)
                await self._pause(delay_s)

    async def _follow(self, slot: Slot, worker: WorkerProcess) -> None:
        """Follow one worker until it is gone, and see to what it leaves behind."""
        slot.worker = worker
        if self._stopping.is_set():
            worker.kill()
        code = await worker.run(self._on_ready)
        slot.reader.reset_gauges()
        if self._stopping.is_set():
            return
        cause = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        if not slot.was_ready and not self._was_ready:
            self._fail(worker.failure or f"worker {slot.index} ended with {cause} before it was ready")
            return
        self._cover()
        self._log.error(
            "worker died", slot=slot.index, worker_pid=worker.pid, cause=cause, error=worker.failure or None
        )

    def _start_of(self, slot: Slot) -> Assignment:
        """Return what a worker of this slot is told first."""
        listen_fds = tuple(other.listener.fileno() for other in self._slots)
        return Assignment(slot=slot.index, listen_fds=listen_fds, metrics_fd=slot.metrics_fd, options=self.options)

    def _on_ready(self, worker: WorkerProcess) -> None:
        """Note that a worker is ready; the first time that all are, say so."""
        slot = self._slots[worker.slot]
        slot.was_ready = True
        if self._stopping.is_set():
            worker.drain()
            return
        if slot.adopter is not None:
            slot.adopter.send(HandBack(slot.index))
            slot.adopter = None
        self._cover()
        ready_s = round(time.monotonic() - worker.started_s, 3)
        self._log.info("worker ready", slot=slot.index, worker_pid=worker.pid, ready_s=ready_s)
        if not self._was_ready and all(other.was_ready for other in self._slots):
            self._was_ready = True
            self._log.info("ready", address=_url(self._address), admin=_url(self._admin.address))
            if self._announce is not None:
                self._announce(Addresses(*self._address, *self._admin.address))

    def _cover(self) -> None:
        """Have a ready sibling accept for every slot that has listened and has no ready worker now."""
        ready = [slot.worker for slot in self._slots if slot.worker is not None and slot.worker.state == "ready"]
        for slot in self._slots:
            has_adopter = slot.adopter is not None and slot.adopter.state == "ready"
            if slot.was_ready and slot.ready_worker is None and not has_adopter:
                slot.adopter = ready[slot.index % len(ready)] if ready else None
                if slot.adopter is not None:
                    slot.adopter.send(Adopt(slot.index))

    async def _watch(self) -> None:
        """Kill workers that say nothing for too long; counted in looks, so that a pause of our own harms none."""
        options = self.options
        rounds_max = options.frozen_s / options.heartbeat_s
        while True:
            await asyncio.sleep(options.heartbeat_s)
            for worker in self._workers():
                starting = worker.state == "starting"
                worker.silent_rounds += 1
                limit = options.start_s / options.heartbeat_s if starting else rounds_max
                if worker.silent_rounds > limit:
                    worker.failure = worker.failure or f"worker {worker.slot} was silent for too long and was killed"
                    worker.kill()
                    self._log.error("worker frozen", slot=worker.slot, worker_pid=worker.pid, state=worker.state)

    # Stopping

    def _handle_signals(self) -> None:
        """Drain on the first SIGTERM or SIGINT, kill on the second."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)

    def _on_signal(self, number: int) -> None:
        """Begin to stop, or stop at once when asked again."""
        if self._stopping.is_set():
            for worker in self._workers():
                worker.kill()
            return
        self._stopping.set()
        self._log.info("stopping", signal=signal.Signals(number).name, drain_s=self.options.drain_s)

    def _fail(self, error: str) -> None:
        """End the start with the first error there is."""
        if self._failure is None:
            self._failure = error
        self._stopping.set()

    def _blame(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        """Fail with what a task was ended by, if it was; told once."""
        for task in tasks:
            if not task.cancelled() and (error := task.exception()) is not None and self._failure is None:
                self._fail(f"the supervisor cannot go on: {error!r}")
                self._log.error("supervisor failed", error=repr(error), exc_info=error)

    async def _drain(self, keepers: Sequence[asyncio.Task[None]]) -> None:
        """Let the workers accept what is pending and finish, kill those that do not, and wait until all are gone."""
        end_s = time.monotonic() + self.options.drain_s
        workers = self._workers()
        for slot in self._slots:
            turn_away(slot.listener)
        for worker in workers:
            worker.drain()
        with suppress(TimeoutError):
            async with asyncio.timeout(self.options.drain_s):
                for worker in workers:
                    await worker.closed.wait()
        for slot in self._slots:
            slot.shut()
        _, late = await asyncio.wait(keepers, timeout=max(end_s - time.monotonic(), 0))
        if late:
            for worker in self._workers():
                worker.kill()
                self._log.error("worker killed", slot=worker.slot, worker_pid=worker.pid, cause="drain time is over")
            await asyncio.wait(late, timeout=_KILLED_S)
        for task in keepers:
            task.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)
        self._blame(keepers)

    async def _pause(self, delay_s: float) -> None:
        """Wait, but not past the stop."""
        try:
            async with asyncio.timeout(delay_s):
                await self._stopping.wait()
        except TimeoutError:
            return

    # Showing (the admin port's view)

    def is_ready(self) -> bool:
        """Return whether all workers have been ready, at least one is now, and none is asked to stop."""
        serving = any(slot.ready_worker is not None for slot in self._slots)
        return self._was_ready and serving and not self._stopping.is_set()

    def metrics_page(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        from tailrace.monitor.exposition import expose

        values: dict[Key, float] = {("tailrace_build_info", (_version(), platform.python_version())): 1}
        for slot in self._slots:
            rss_bytes = slot.worker.rss_bytes if slot.ready_worker is not None and slot.worker is not None else 0
            values["tailrace_worker_restarts_total", (str(slot.index),)] = slot.restarts
            values["tailrace_worker_rss_bytes", (str(slot.index),)] = rss_bytes
        return expose(self._merge(), values)

    def status(self) -> Status:
        """Return what runs, and how it has been doing."""
        metrics = self._merge()
        recent = metrics.since(self._samples[0]) if self._samples else metrics
        warm = next((slot.worker.ready for slot in self._slots if slot.worker is not None and slot.worker.ready), None)
        return Status(
            version=_version(),
            pid=os.getpid(),
            uptime_s=round(time.monotonic() - self._started_s, 3),
            ready=self.is_ready(),
            address=_url(self._address),
            workers=[_worker_status(slot) for slot in self._slots],
            pipelines=pipeline_snapshots(metrics),
            recent_s=round(recent.span_s, 3),
            recent=pipeline_snapshots(recent),
            warm_up=warm.pipelines if warm is not None else (),
        )

    async def _sample(self) -> None:
        """Keep the counters of a while ago."""
        while True:
            self._samples.append(self._merge())
            await asyncio.sleep(_SAMPLE_S)

    def _merge(self) -> MergedMetrics:
        """Merge what all slots have counted."""
        return merge_blocks(slot.reader for slot in self._slots)

    def _workers(self) -> list[WorkerProcess]:
        """Return the workers whose processes run."""
        return [slot.worker for slot in self._slots if slot.worker is not None and slot.worker.state != "gone"]


def _raise_files_max() -> int:
    """Raise this process's limit of open files, which its workers inherit, as far as it may; return the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def _version() -> str:
    """Return the installed version."""
    from importlib.metadata import version

    return version("tailrace")


def _url(address: tuple[str, int]) -> str:
    """Return an address as a URL."""
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    return f"http://{host}:{address[1]}"


def _worker_status(slot: Slot) -> WorkerStatus:
    """Return how one slot stands."""
    worker = slot.worker
    return WorkerStatus(
        slot=slot.index,
        pid=worker.pid if worker is not None and worker.state != "gone" else 0,
        state=worker.state if worker is not None else "starting",
        restarts=slot.restarts,
        rss_bytes=worker.rss_bytes if worker is not None else 0,
        ready_s=worker.ready.ready_s if worker is not None and worker.ready is not None else None,
        adopted_by=slot.adopter.slot if slot.adopter is not None else None,
    )
