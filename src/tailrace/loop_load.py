"""The load of one event loop, over all engines that share it: one a worker."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from tailrace.request.admission import Admission


class Loop(Protocol):
    """What an engine needs of an event loop: asyncio's, or one that a test turns by hand."""

    def call_soon(self, callback: Callable[[], None], /) -> object:
        """Run a callback in the loop's next turn."""
        ...

    def call_later(self, delay: float, callback: Callable[[], None], /) -> object:
        """Run a callback after some seconds."""
        ...

    def create_task(self, coroutine: Coroutine[Any, Any, None], /) -> Any:
        """Run a coroutine; return its task."""
        ...


class LoopLoad:
    """What the engines of a loop have taken on, what its connections hold, and for how long it did not look.

    unread_since_ns: since when the sockets have not been read, because the loop has been at work; 0 while it reads what
    has just come. What is read then may have arrived at any time since. bytes: of requests received in part.
    is_shared: whether it has more than one engine.
    """

    def __init__(self, loop: Loop) -> None:
        self.unread_since_ns = 0
        self.bytes = 0
        self.is_shared = False
        self._call_soon = loop.call_soon
        self._look_due = False
        self._admissions: list[Admission] = []

    def add(self, admission: Admission) -> None:
        """Take in an engine of this loop."""
        self._admissions.append(admission)
        self.is_shared = len(self._admissions) > 1

    @property
    def expected_ns(self) -> float:
        """What is waiting in all engines is expected to take. Nanoseconds add; rows of different models do not."""
        return sum(admission.expected_ns for admission in self._admissions)

    @property
    def rows(self) -> int:
        """Rows taken and not yet answered."""
        return sum(admission.rows_waiting for admission in self._admissions)

    def leave_sockets(self, now_ns: int) -> None:
        """Note that the loop goes to work now, and reads no socket before its next turn."""
        if not self.unread_since_ns:
            self.unread_since_ns = now_ns
        if not self._look_due:
            self._look_due = True
            self._call_soon(self._look)

    def _look(self) -> None:
        """Run once the sockets have been read that waited for the work; what is read later did not wait."""
        self._look_due = False
        self.unread_since_ns = 0

    def balance(self) -> None:
        """Tell each engine how long the others' next batches may hold up its own: they take turns."""
        turns_ns = [admission.turn_ns for admission in self._admissions]
        whole_ns = sum(turns_ns)
        for admission, own_ns in zip(self._admissions, turns_ns, strict=True):
            admission.take_turns_with(whole_ns - own_ns)
