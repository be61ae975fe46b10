"""A small real child without a slot for the supervisor's tests: notes what happens to it in a file.

Files in its folder change what it does while they are there: with "hold" its start waits, with "crash" it ends with
exit code 3 instead, with "stubborn" it does not heed the drain. Each line of "notes" is a word, the pid and the time.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from tailrace.server.channel import ChildChannel
from tailrace.server.child import Child
from tailrace.server.control import Drain, Draining, Ready
from tailrace.server.role import ChildRole


class NoteTaking(msgspec.Struct, frozen=True, tag=True):
    """Supervisor → observer, first of all: where to take notes, and how often to send a sign of life."""

    folder: str
    heartbeat_s: float


class Note(msgspec.Struct, frozen=True):
    """One line of the notes. word: "start", "ready", "drain" or, where no sibling was left then, "drain alone"."""

    word: str
    pid: int
    at_s: float


class StandInObserver:
    """Observes nothing."""

    def __init__(self, task: NoteTaking, channel: ChildChannel) -> None:
        self.folder = Path(task.folder)
        self.heartbeat_s = task.heartbeat_s
        self.channel = channel

    def note(self, word: str) -> None:
        """Write one line."""
        with (self.folder / "notes").open("ab") as notes:
            notes.write(msgspec.json.encode(Note(word, os.getpid(), time.monotonic())) + b"\n")

    async def run(self) -> None:
        """Work until asked to drain, or left alone."""
        self.note("start")
        if (self.folder / "crash").exists():
            os._exit(3)
        while (self.folder / "hold").exists():
            await asyncio.sleep(0.01)
        self.note("ready")
        self.channel.send(Ready(os.getpid()))
        beat = asyncio.create_task(self.channel.beat(self.heartbeat_s))
        message = await self.channel.receive()
        if message == Drain():
            siblings = Path(f"/proc/{os.getppid()}/task/{os.getppid()}/children").read_text().split()
            self.note("drain alone" if siblings == [str(os.getpid())] else "drain")
            while (self.folder / "stubborn").exists():
                await asyncio.sleep(0.01)
            self.channel.send(Draining())
        beat.cancel()


def observer(folder: str, **changes: Any) -> Child:
    """Return the child for a supervisor. changes: of its role."""
    policy: dict[str, Any] = {
        "is_awaited": False, "ends_server": False, "start_s": 20.0, "heartbeat_s": 0.1, "frozen_s": 10.0,
        "drain_s": 10.0, "drain_order": 1, **changes,
    }  # fmt: skip
    role = ChildRole(name="observer", command=(sys.executable, __file__), **policy)
    return Child(role, NoteTaking(folder, role.heartbeat_s))


def read_notes(folder: Path) -> list[Note]:
    """Return the notes so far."""
    path = folder / "notes"
    lines = path.read_bytes().splitlines() if path.exists() else []
    return [msgspec.json.decode(line, type=Note) for line in lines]


async def main() -> None:
    """Take the task and do it."""
    channel = ChildChannel(int(sys.argv[-1]), NoteTaking | Drain)
    await StandInObserver(await channel.receive(), channel).run()


if __name__ == "__main__":
    asyncio.run(main())
