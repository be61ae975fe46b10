"""The thread that waits for the disk, in place of the loop: what is asked for meanwhile goes to disk together."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Final, NamedTuple, TypeVar

from tailrace.core_share import be_prompt
from tailrace.errors import StoreError
from tailrace.server.accepted.journal import Journal

TOGETHER_MAX: Final = 256
"""Works in one transaction."""
CLOSE_S: Final = 5.0
T = TypeVar("T")
Work = Callable[[Any], Any]


class _Asked(NamedTuple):
    """Some work. due_s: until when it may wait, monotonic; 0 for none."""

    work: Work
    future: asyncio.Future[Any]
    due_s: float


class JournalThread:
    """Does work on a journal, in order. asked: how many works are not done yet.

    Work that nobody waits for may linger, so that it goes with what somebody waits for: each transaction waits for the
    disk twice, and only one process at a time may be in one.
    """

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.asked = 0
        self._loop = asyncio.get_running_loop()
        self._queue: SimpleQueue[_Asked | None] = SimpleQueue()
        self._thread = Thread(target=self._run, name="journal", daemon=True)  # it may wait for a disk for ever
        self._thread.start()

    def do(self, work: Callable[[Any], T], *, linger_s: float = 0.0) -> asyncio.Future[T]:
        """Do some work in a transaction; the future has its outcome once that is on disk, or a StoreError.

        linger_s: for how long it may wait for others to go with it.
        """
        self.asked += 1
        future: asyncio.Future[T] = self._loop.create_future()
        self._queue.put(_Asked(work, future, time.monotonic() + linger_s if linger_s else 0.0))
        return future

    def close(self) -> None:
        """Do what is asked for, and let go of the files; not where the disk does not answer."""
        self._queue.put(None)
        self._thread.join(CLOSE_S)
        if not self._thread.is_alive():
            self.journal.close()

    def _run(self) -> None:
        be_prompt()  # the loop cannot run while this thread has the interpreter and no core
        is_open = True
        while is_open:
            asked = self._gather()
            is_open = None not in asked
            wanted = [each for each in asked if each is not None]
            if wanted:
                outcomes = self._transact([each.work for each in wanted])
                with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                    self._loop.call_soon_threadsafe(self._tell, [each.future for each in wanted], outcomes)

    def _gather(self) -> list[_Asked | None]:
        """Return what goes into the next transaction, once some of it cannot wait; with None among it, the last."""
        asked = [self._queue.get()]
        with contextlib.suppress(Empty):
            while len(asked) < TOGETHER_MAX and asked[-1] is not None:
                due_s = min((each.due_s for each in asked if each is not None), default=0.0)
                wait_s = due_s - time.monotonic()
                asked.append(self._queue.get(timeout=wait_s) if wait_s > 0 else self._queue.get_nowait())
        return asked

    def _transact(self, works: list[Work]) -> list[Any] | Exception:
        try:
            return self.journal.transact(works)
        except StoreError as error:
            return error
        except Exception as error:  # a fault of ours must not end the thread
            return StoreError(f"{type(error).__name__}: {error}", where=self.journal.path)

    def _tell(self, futures: list[asyncio.Future[Any]], outcomes: list[Any] | Exception) -> None:
        self.asked -= len(futures)
        for place, future in enumerate(futures):
            if future.done():
                continue
            if isinstance(outcomes, Exception):
                future.set_exception(outcomes)
            else:
                future.set_result(outcomes[place])
