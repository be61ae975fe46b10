"""Who accepts for a slot without a ready worker, where two workers may share a slot for a while."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any, Literal

import pytest

from tailrace.server.adoption import Adoption
from tailrace.server.channel import SupervisorChannel, WorkerChannel
from tailrace.server.child import Child
from tailrace.server.control import Drain, HandBack, Listen
from tailrace.server.options import ServeOptions
from tailrace.server.process import ChildProcess
from tailrace.server.slots import Slot, open_slots
from tailrace.server.workers import worker_role

ROLE = worker_role(ServeOptions(files=("pipeline.py",)))


class ReadyWorker:
    """A child with a slot whose process is ready, and the other end of its channel."""

    def __init__(self, slot: Slot, stack: ExitStack) -> None:
        ours, theirs = socket.socketpair()
        self._channel = WorkerChannel(theirs.detach())
        self._process: Any = SimpleNamespace(pid=1, returncode=None)
        self.child = Child(ROLE, Drain(), slot=slot)
        self.process = self.child.process = ChildProcess(self._process, SupervisorChannel(ours))
        self.become("ready")
        self.child.was_ready = True
        stack.callback(self._channel.close)
        stack.callback(ours.close)

    def become(self, state: Literal["ready", "gone"]) -> None:
        """Change the state of the process."""
        self.process.state = state

    def hear(self) -> list[object]:
        """Return what it is sent, up to a `Drain`."""
        self.process.send(Drain())
        return list(iter(lambda: asyncio.run(self._channel.receive()), Drain()))


@pytest.fixture
def workers() -> Iterator[list[ReadyWorker]]:
    """Two workers in the first slot, a current and a coming one, and one in the second."""
    with ExitStack() as stack:
        first, second = open_slots("127.0.0.1", 0, 2)
        stack.callback(first.close)
        stack.callback(second.close)
        yield [ReadyWorker(slot, stack) for slot in (first, first, second)]


def test_slot_is_adopted_when_none_of_its_workers_is_ready(workers: list[ReadyWorker]) -> None:
    """A coming worker serves the slot of a current one that has died; only without both a sibling does."""
    current, coming, sibling = workers
    adoption = Adoption([worker.child for worker in workers])
    current.become("gone")
    adoption.cover()
    assert adoption.adopter_of(0) is None
    coming.become("gone")
    adoption.cover()
    adoption.cover()
    assert adoption.adopter_of(0) == 1
    adoption.hand_back(0)
    adoption.hand_back(0)
    assert adoption.adopter_of(0) is None
    assert sibling.hear() == [Listen(0), HandBack(0)]


def test_adopter_that_dies_is_replaced(workers: list[ReadyWorker]) -> None:
    """The slot of a dead worker and that of its dead adopter are both accepted for by who is left."""
    current, coming, sibling = workers
    adoption = Adoption([worker.child for worker in workers])
    sibling.become("gone")
    adoption.cover()
    assert adoption.adopter_of(1) == 0
    adopter, other = (current, coming) if current.hear() else (coming, current)
    adopter.become("gone")
    adoption.cover()
    assert adoption.adopter_of(1) == 0
    assert other.hear() == [Listen(1)]
    other.become("gone")
    adoption.cover()
    assert adoption.adopter_of(1) is None
