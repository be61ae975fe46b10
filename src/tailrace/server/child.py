"""A child of the supervisor: a process that is started, watched, and replaced whenever it dies, until it is to stop.

Its role says how. A worker is a child with a slot; a child without one has no listening socket, and no sibling that
accepts for it. Two releases of one server side by side are two children in each slot: the second one's processes are
warm before they get the slot's socket.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import Any, Protocol

import msgspec

from tailrace.monitor.shared import OwnedBlock
from tailrace.server.control import Listen, PreDrain
from tailrace.server.logging import logger
from tailrace.server.process import ChildProcess
from tailrace.server.role import ChildRole
from tailrace.server.slots import Slot


class ChildWatcher(Protocol):
    """Hears what becomes of a child: the supervisor."""

    def on_ready(self, child: Child) -> None:
        """Hear that a process of the child is ready."""
        ...

    def on_wants_events(self, child: Child) -> None:
        """Hear that a process of the child asks for a link to the ingester."""
        ...

    def on_death(self, child: Child) -> None:
        """Hear that the child's process is gone; its successor follows."""
        ...

    def on_failed_start(self, child: Child, error: str) -> None:
        """Hear that the first start of a child has failed whose role is to end the server then."""
        ...


class Child:
    """One child, in one process after the other.

    assignment: the first message to each process. fds: what each inherits. owned: of these, what ends with the child,
    beside its block. slot: a worker's place. block: the metrics that its processes write, where there are any.
    admitted: whether a process gets the slot's socket as soon as it is warm; the workers of a second release are
    started without, and get it by `admit`. asleep: whether the first process waits for `wake`. origin: where a
    consumer's events come from, without a password; it tells one from the others.
    """

    def __init__(
        self,
        role: ChildRole,
        assignment: msgspec.Struct,
        *,
        fds: tuple[int, ...] = (),
        owned: tuple[int, ...] = (),
        slot: Slot | None = None,
        block: OwnedBlock | None = None,
        admitted: bool = True,
        asleep: bool = False,
        origin: str = "",
    ) -> None:
        self.role = role
        self.origin = origin
        self.slot = slot
        self.block = block
        self.name = role.name if slot is None else f"{role.name} {slot.index}"
        self.process: ChildProcess | None = None
        self.restarts = 0
        self.was_ready = False
        self._assignment = assignment
        self._fds = fds
        self._owned = owned
        self._admitted = admitted
        self._awake = asyncio.Event()
        if not asleep:
            self._awake.set()
        self._stopping = asyncio.Event()
        self._is_pre_draining = False
        place = {} if slot is None else {"slot": slot.index}
        self._log = logger(pid=os.getpid(), **place, **({"origin": origin} if origin else {}))

    @property
    def is_running(self) -> bool:
        """Whether it has a process now."""
        return self.process is not None and self.process.state != "gone"

    @property
    def is_ready(self) -> bool:
        """Whether its process is ready now."""
        return self.process is not None and self.process.state == "ready"

    async def keep(self, watcher: ChildWatcher) -> None:
        """Keep a process running until the child is to stop."""
        delay_s = 0.0
        await self._awake.wait()
        while not self._stopping.is_set():
            served_s = await self._run_one(watcher)
            if not self._stopping.is_set():
                self.restarts += 1
                delay_s = self.role.back_off.next_s(delay_s, served_s)
                await self._pause(delay_s)

    async def watch(self) -> None:
        """Kill a process that is silent for too long; counted in looks, so that a pause of our own harms none."""
        role = self.role
        while True:
            await asyncio.sleep(role.heartbeat_s)
            process = self.process
            if process is None or process.state == "gone":
                continue
            process.silent_rounds += 1
            limit_s = role.start_s if process.state == "starting" else role.frozen_s
            if process.silent_rounds > limit_s / role.heartbeat_s:
                process.failure = process.failure or f"{self.name} was silent for too long and was killed"
                process.kill()
                self._log.error(f"{role.name} frozen", **self._pid_of(process), state=process.state)

    def pre_drain(self) -> None:
        """Have its process, and each successor, say that it is not ready and go on with all else."""
        self._is_pre_draining = True
        if self.process is not None and self.is_running:
            self.process.send(PreDrain())

    def wake(self) -> None:
        """Start the first process, if it was to wait for this."""
        self._awake.set()

    def stop(self) -> None:
        """Start no successor any more, and have the process drain."""
        self._stopping.set()
        self._awake.set()
        if self.process is not None:
            self.process.drain()

    def kill(self, cause: str = "") -> None:
        """End the process now. cause: for the log."""
        if self.process is not None and self.is_running:
            self.process.kill()
            if cause:
                self._log.error(f"{self.role.name} killed", **self._pid_of(self.process), cause=cause)

    async def wait_closed(self) -> None:
        """Wait until its process takes nothing new any more, or is gone."""
        if self.process is not None:
            await self.process.closed.wait()

    def close(self) -> None:
        """Let go of the metrics."""
        if self.block is not None:
            self.block.close()
        for descriptor in self._owned:
            os.close(descriptor)

    async def _run_one(self, watcher: ChildWatcher) -> float:
        """Run one process to its end; return for how many seconds it was ready."""
        try:
            process = await ChildProcess.spawn(self.role.command, self._assignment, self._fds, loads=self.role.loads)
        except OSError as error:
            self._log.error(f"{self.role.name} cannot be spawned", error=str(error))
            if self._ends_server():
                watcher.on_failed_start(self, f"the {self.role.name} cannot be spawned: {error}")
            return 0.0
        self.process = process
        if self._is_pre_draining:
            process.send(PreDrain())
        if self._stopping.is_set():
            process.kill()
        code = await process.run(
            lambda: self._on_warm(process),
            lambda: self._on_ready(process, watcher),
            lambda: watcher.on_wants_events(self),
        )
        served_s = process.served_s
        if self.block is not None:
            self.block.reset_gauges()
        if not self._stopping.is_set():
            self._on_death(process, code, watcher)
        return served_s

    def admit(self) -> None:
        """Give the process the slot's socket once it is warm, and each successor too."""
        self._admitted = True
        if self.process is not None and self.process.state == "warm":
            self._on_warm(self.process)

    def _on_warm(self, process: ChildProcess) -> None:
        """Give a process that could serve its socket, if it may."""
        if self._admitted and self.slot is not None:
            is_sent = process.send(Listen(self.slot.index), self.slot.listener.fileno())
            if not is_sent:
                process.kill()  # for a successor: it would wait for its socket for ever

    def _on_ready(self, process: ChildProcess, watcher: ChildWatcher) -> None:
        """Note that the process is ready."""
        self.was_ready = True
        if self._stopping.is_set():
            process.drain()
            return
        ready_s = round(time.monotonic() - process.started_s, 3)
        self._log.info(f"{self.role.name} ready", **self._pid_of(process), ready_s=ready_s, **_served_by(process))
        watcher.on_ready(self)

    def _on_death(self, process: ChildProcess, code: int, watcher: ChildWatcher) -> None:
        """See to the end of a process that was not asked to end."""
        cause = _cause_of(code)
        if self._ends_server():
            error = process.failure or f"{self.name} ended with {cause} before it was ready"
            watcher.on_failed_start(self, error)
            return
        watcher.on_death(self)
        self._log.error(f"{self.role.name} died", **self._pid_of(process), cause=cause, error=process.failure or None)

    def _ends_server(self) -> bool:
        """Return whether a start that has failed just now ends the server."""
        return self.role.ends_server and not self.was_ready

    def _pid_of(self, process: ChildProcess) -> dict[str, int]:
        """Return the process as the log names it."""
        return {f"{self.role.name}_pid": process.pid}

    async def _pause(self, delay_s: float) -> None:
        """Wait, but not past the stop."""
        try:
            async with asyncio.timeout(delay_s):
                await self._stopping.wait()
        except TimeoutError:
            return


def _cause_of(code: int) -> str:
    """Return what has ended a process, from its exit code."""
    if code >= 0:
        return f"exit code {code}"
    number = -code
    try:
        return f"signal {signal.Signals(number).name}"
    except ValueError:  # of the real-time signals only the first and the last have a name
        return f"signal SIGRTMIN+{number - signal.SIGRTMIN}" if number > signal.SIGRTMIN else f"signal {number}"


def _served_by(process: ChildProcess) -> dict[str, Any]:
    """Return what a worker serves, as the log names it: the release, and each model's version."""
    ready = process.ready
    if ready is None or not ready.release:
        return {}
    models = {
        f"{pipeline.name}.{model.name}": model.version for pipeline in ready.released for model in pipeline.models
    }
    return {"release": ready.release, "models": models}
