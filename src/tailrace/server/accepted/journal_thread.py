"""The thread that waits for the disk, in place of the loop: what is asked for meanwhile goes to disk together."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Final, TypeVar

from tailrace.errors import StoreError
from tailrace.server.accepted.journal import Journal

TOGETHER_MAX: Final = 256
"""Works in one transaction."""
CLOSE_S: Final = 5.0
T = TypeVar("T")
Work = Callable[[Any], Any]


class JournalThread:
    """Does work on a journal, in order. asked: how many works are not done yet."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.asked = 0
        self._loop = asyncio.get_running_loop()
        self._queue: SimpleQueue[tuple[Work, asyncio.Future[Any]] | None] = SimpleQueue()
        self._thread = Thread(target=self._run, name="journal", daemon=True)  # it may wait for a disk for ever
        self._thread.start()

    def do(self, work: Callable[[Any], T]) -> asyncio.Future[T]:
        """Do some work in a transaction; the future has its outcome once that is on disk, or a StoreError."""
        self.asked += 1
        future: asyncio.Future[T] = self._loop.create_future()
        self._queue.put((work, future))
        return future

    def close(self) -> None:
        """Do what is asked for, and let go of the files; not where the disk does not answer."""
        self._queue.put(None)
        self._thread.join(CLOSE_S)
        if not self._thread.is_alive():
            self.journal.close()

    def _run(self) -> None:
        is_open = True
        while is_open:
            asked = [self._queue.get()]
            with contextlib.suppress(Empty):
                while len(asked) < TOGETHER_MAX:
                    asked.append(self._queue.get_nowait())
            is_open = None not in asked
            wanted = [each for each in asked if each is not None]
            if wanted:
                outcomes = self._transact([work for work, _ in wanted])
                with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                    self._loop.call_soon_threadsafe(self._tell, [future for _, future in wanted], outcomes)

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
