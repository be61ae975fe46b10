"""Calls into another program, such as a database server: a run waits for them until its limit, or until it is to stop.

    run --call--> a thread that waits for the other program --answer--> run
     `--- too late, or to stop --> end it politely --GRACE_S--> by force --GRACE_S--> leave the thread behind

A call that hangs in a library cannot be left from within, so it has a thread of its own, and the run looks in between.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final, Generic, TypeVar

Answer = TypeVar("Answer")
End = Callable[[], object]
"""Ends a call from another thread. What it raises is of no interest: the call may be over."""

GRACE_S: Final = 1.0
"""How long a call may take to end, once it is told to."""
LOOK_S: Final = 0.05
"""How often it is looked whether the run is to stop."""


class StoppedError(Exception):
    """A run is to stop: it ends where it is, and the next one resumes it."""


class LateError(Exception):
    """A call is not over within the run's limit."""


def never() -> bool:
    """Say that the run is not to stop."""
    return False


class OutsideCalls:
    """The calls of one query. limit_s: how long all of them may take, from now on.

    is_stopping: is asked from the thread that calls. left_behind: whether a call hangs still, so that what it uses must
    not be touched.
    """

    def __init__(self, limit_s: float, is_stopping: Callable[[], bool] = never) -> None:
        self._began_s = time.monotonic()
        self._limit_s = limit_s
        self._is_stopping = is_stopping
        self.left_behind = False

    @property
    def limit_s(self) -> float:
        """How long all of them may take."""
        return self._limit_s

    def extend(self, limit_s: float) -> None:
        """Let them take longer, where the user has said so elsewhere."""
        self._limit_s = max(self._limit_s, limit_s)

    def call(self, work: Callable[[], Answer], ends: Sequence[End] = (), *, repeats: bool = False) -> Answer:
        """Return what some work does. ends: what ends it, the next one where the one before does not.

        repeats: whether an end is made again and again within its grace, since the work may not hear the first.
        Raises LateError past the limit, StoppedError where the run is to stop, and what the work raises. It is ended
        too where this thread is interrupted.
        """
        call = _Call(work)
        try:
            while not call.done.wait(LOOK_S):
                self._check()
        except BaseException:
            self.left_behind = True  # it is while the end is waited for, which a second Ctrl-C may cut short
            self.left_behind = not _end(call, ends, repeats=repeats)
            raise
        return call.answer()

    def _check(self) -> None:
        if self._is_stopping():
            raise StoppedError
        if time.monotonic() - self._began_s >= self._limit_s:
            raise LateError(f"it takes longer than {self._limit_s:g} s")


class _Call(Generic[Answer]):
    """Some work on a thread that the process does not wait for when it ends."""

    def __init__(self, work: Callable[[], Answer]) -> None:
        self.done = threading.Event()
        self._work = work
        self._answer: Any = None
        self._error: BaseException | None = None
        threading.Thread(target=self._run, name="outside call", daemon=True).start()

    def _run(self) -> None:
        try:
            self._answer = self._work()
        except BaseException as error:  # it is raised where the answer is asked for
            self._error = error
        self.done.set()

    def answer(self) -> Answer:
        """Return the answer, or raise the error; the call is over."""
        if self._error is not None:
            raise self._error
        answer: Answer = self._answer
        return answer


def _end(call: _Call[Any], ends: Sequence[End], *, repeats: bool) -> bool:
    """End a call; return whether it has ended. An end may hang for the reason for which the call does."""
    for end in ends:
        made = (end, call.done, GRACE_S if repeats else 0)
        threading.Thread(target=_make, args=made, name="end of an outside call", daemon=True).start()
        if call.done.wait(GRACE_S):
            return True
    return call.done.is_set()


def _make(end: End, done: threading.Event, grace_s: float) -> None:
    """Make an end once, and again until the call is over or its grace is."""
    end_s = time.monotonic() + grace_s
    while True:
        with suppress(Exception):
            end()
        if time.monotonic() >= end_s or done.wait(LOOK_S):
            return
