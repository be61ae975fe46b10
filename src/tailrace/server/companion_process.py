"""A process beside the workers, from within: it is given its task, says that it lives, and hears that it is to stop."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

import msgspec
import structlog
import uvloop

from tailrace.errors import TailraceError
from tailrace.monitor.observed import LEFT_OUT, OBSERVED_BYTES_MAX, Observed
from tailrace.server.channel import ChildChannel
from tailrace.server.control import CompanionAssignment, Drain, Draining, Failed, Link, Ready, ToCompanion
from tailrace.server.log_lines import LINES
from tailrace.server.logging import configure_logging, log_warnings
from tailrace.server.process_use import rss_bytes

_ASSIGNMENT_S: Final = 30.0
"""How long a process waits for its task."""


class CompanionProcess:
    """What a process and the supervisor say to each other. task: what it was given. log: has its pid."""

    def __init__(self, name: str, task: CompanionAssignment, channel: ChildChannel, began_s: float) -> None:
        self.task = task
        self.log = structlog.get_logger().bind(pid=os.getpid())
        self._name = name
        self._channel = channel
        self._began_s = began_s

    def say_ready(self) -> None:
        """Say that it is at work."""
        self._channel.send(Ready(os.getpid(), time.monotonic() - self._began_s, rss_bytes(os.getpid())))

    def say_observed(self, observed: Observed) -> bool:
        """Say what there is to show; return False for more than may be said, of which a part is left out, or all."""
        is_short = is_whole = _is_short(observed)
        for part in LEFT_OUT:
            if not is_short:
                setattr(observed, part, {})
                is_short = _is_short(observed)
        if is_short:
            self._channel.send(observed)
        return is_whole

    def say_draining(self, in_flight: int = 0) -> None:
        """Say that it takes nothing any more. in_flight: what is left to do."""
        self._channel.send(Draining(in_flight))

    def fail(self, what: str, error: BaseException) -> int:
        """Say why it ends, which the supervisor logs; return the exit code. What is no error of ours is a fault.

        what: that it cannot do, as in "start".
        """
        if isinstance(error, TailraceError):
            self._channel.send(Failed(str(error)))
        else:
            self._channel.send(Failed(f"the {self._name} cannot {what}: {type(error).__name__}: {error}"))
            self.log.error(f"{self._name} cannot {what}", error=repr(error), exc_info=error)
        return 1

    async def beat(self) -> None:
        """Say that it lives, until cancelled."""
        await self._channel.beat(self.task.options.heartbeat_s)

    async def obey(self, on_link: Callable[[int], Awaitable[None]] | None = None) -> None:
        """Wait until the supervisor says to stop, or is gone. on_link: takes the sockets of links to workers."""
        for number in (signal.SIGTERM, signal.SIGINT):  # the supervisor gets it too, and decides
            asyncio.get_running_loop().add_signal_handler(number, lambda: None)
        while True:
            match await self._channel.receive():
                case Link() if on_link is not None:
                    await on_link(self._channel.take_descriptor())
                case Drain() | None:
                    return


def _is_short(observed: Observed) -> bool:
    return len(msgspec.json.encode(observed)) <= OBSERVED_BYTES_MAX


def run_companion(name: str, arguments: list[str], work: Callable[[CompanionProcess], Coroutine[Any, Any, int]]) -> int:
    """Do some work on the control channel whose descriptor is the last argument; return the exit code."""
    began_s = time.monotonic()
    channel = ChildChannel(int(arguments[-1]), ToCompanion)
    task: Any = channel.receive_blocking(_ASSIGNMENT_S)
    if not isinstance(task, CompanionAssignment):
        return 1
    LINES.who = name
    configure_logging()
    log_warnings()
    return uvloop.run(work(CompanionProcess(name, task, channel, began_s)))
