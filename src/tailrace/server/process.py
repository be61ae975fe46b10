"""One process of a child as the supervisor sees it: spawned, ready, draining, gone."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from asyncio.subprocess import Process
from collections.abc import Callable, Sequence
from typing import Final, Literal

import msgspec

from tailrace.core_share import hold_back, let_go
from tailrace.monitor.observed import Observed
from tailrace.server.channel import SupervisorChannel
from tailrace.server.control import Drain, Draining, Failed, FromChild, Heartbeat, Ready, WantsEvents, Warm
from tailrace.server.log_lines import LINES

_LAST_WORDS_S: Final = 1.0
"""How long an end of the channel may be unread after the exit, or a process live on after it has closed its end."""


class ChildProcess:
    """A running process. `state` follows what it says; `run` returns when it is gone and reaped."""

    def __init__(self, process: Process, channel: SupervisorChannel) -> None:
        self.pid = process.pid
        self.state: Literal["starting", "warm", "ready", "draining", "gone"] = "starting"
        self.ready: Ready | None = None
        self.failure = ""
        self.rss_bytes = 0
        self.closed = asyncio.Event()
        """Set once it takes nothing new any more."""
        self.wants_events = False
        """Whether it has streams, and waits for a link to the ingester."""
        self.observed: tuple[float, Observed] | None = None
        """The last of what it has to show, and when that came, monotonic."""
        self.silent_rounds = 0
        """How many of the supervisor's looks in a row found no word of it."""
        self.started_s = time.monotonic()
        self._ready_since_s: float | None = None
        self._process = process
        self._channel = channel

    @classmethod
    async def spawn(
        cls, command: Sequence[str], assignment: msgspec.Struct, fds: Sequence[int], *, loads: bool = False
    ) -> ChildProcess:
        """Start a process and give it its task. fds: what it inherits. loads: whether it is held back at first.

        It is spawned, not forked: nothing of the supervisor's state goes along. Raises OSError where it cannot be.
        """
        ours, theirs = socket.socketpair()
        channel = SupervisorChannel(ours)
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                str(theirs.fileno()),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), *fds),
                start_new_session=True,  # a terminal's Ctrl-C is for the supervisor, which drains
            )
        except BaseException:
            channel.close()
            raise
        finally:
            theirs.close()
        (hold_back if loads else let_go)(process.pid)
        channel.send(assignment)
        return cls(process, channel)

    @property
    def served_s(self) -> float:
        """For how long it has been ready; 0 where it never was."""
        return 0.0 if self._ready_since_s is None else time.monotonic() - self._ready_since_s

    async def run(
        self, on_warm: Callable[[], None], on_ready: Callable[[], None], on_wanted: Callable[[], None]
    ) -> int:
        """Follow the process until it is gone; return its exit code, negative for a signal.

        on_warm: is called when it waits for its socket; on_ready: when it is at work; on_wanted: when it asks for a
        link to the ingester.
        """
        reading = asyncio.create_task(self._read(on_warm, on_ready, on_wanted))
        exiting = asyncio.create_task(self._process.wait())
        try:
            await asyncio.wait({reading, exiting}, return_when=asyncio.FIRST_COMPLETED)
            if not exiting.done() and self.state != "draining":
                await asyncio.wait({exiting}, timeout=_LAST_WORDS_S)
                self.kill()
            code = await exiting
            await asyncio.wait({reading}, timeout=_LAST_WORDS_S)
        finally:
            reading.cancel()
            exiting.cancel()
            self.state = "gone"
            self.closed.set()
            self._channel.close()
        return code

    def send(self, message: msgspec.Struct, descriptor: int | None = None) -> bool:
        """Send the process a message, and a descriptor along with it; return False where it does not read."""
        return self._channel.send(message, descriptor)

    def drain(self) -> None:
        """Ask the process to finish; one that is not ready yet has nothing to finish and is killed."""
        if self.state in ("starting", "warm"):
            self.kill()
        elif self.state == "ready":
            self.state = "draining"
            self.send(Drain())

    def kill(self) -> None:
        """End the process now."""
        if self.state != "gone" and self._process.returncode is None:
            self._process.send_signal(signal.SIGKILL)

    async def _read(
        self, on_warm: Callable[[], None], on_ready: Callable[[], None], on_wanted: Callable[[], None]
    ) -> None:
        """Take the process's messages until its end of the channel closes."""
        while (message := await self._channel.receive()) is not None:
            self._take(message, on_warm, on_ready, on_wanted)

    def _take(
        self,
        message: FromChild,
        on_warm: Callable[[], None],
        on_ready: Callable[[], None],
        on_wanted: Callable[[], None],
    ) -> None:
        """Note what one message says."""
        self.silent_rounds = 0
        match message:
            case WantsEvents():
                self.wants_events = True
                on_wanted()
            case Warm() if self.state == "starting":
                self.state = "warm"
                on_warm()
            case Ready() if self.state in ("starting", "warm"):
                self.ready, self.state, self.rss_bytes = message, "ready", message.rss_bytes
                self._ready_since_s = time.monotonic()
                on_ready()
            case Failed(error=error):
                self.failure = error
            case Heartbeat(rss_bytes=rss_bytes, lines=lines):
                self.rss_bytes = rss_bytes or self.rss_bytes
                LINES.hear(lines)
            case Observed():
                self.observed = time.monotonic(), message
            case Draining():
                self.state = "draining"
                self.closed.set()
