"""Asking a late embedded store off the loop: a thread reads what the loop was asked for, until that is in time.

The thread ends when it has read all that it was given; the next batch that the loop leaves alone starts it again:

    loop:    late ──ask──> defaults ──ask──> defaults ────────────────────> reads the store again
    thread:        reads what the late batch left, then the newest batches ──^ every one of them in time

A key that py-lmdb gets keeps no other thread waiting: `Transaction.get` lets go of the interpreter's lock while it
looks the key up and touches each page of its value (cpython.c, `trans_get`: mdb_get and `preload`). Beginning a
transaction does not: it reads the file's first two pages under the lock (measured with 20 ms a page: one gap of 40 ms
in the loop, and none over 10 in 71 pages of keys). So the thread reads those two from the file before it begins.
"""

from __future__ import annotations

import os
import resource
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from tailrace.deadline import Clock
from tailrace.errors import StoreError

BATCHES_MAX: Final = 4
"""Batches kept for the thread, the newest: all of a round must be in time."""

KEYS_MAX: Final = 256
"""Of one batch; the first stand for all."""

CLOSE_S_MAX: Final = 1.0
"""A disk that has not given a page by then may never do so."""

_FIRST_PAGES_BYTES: Final = 2 * resource.getpagesize()


class Probe:
    """Reads off the loop the keys that it is given, and finds out when the store is in time again.

    file: whose first pages a transaction begins with. read: gets one key; OSError or StoreError ends the probe, since
    then the loop may find the fault itself.
    """

    def __init__(self, file: str, read: Callable[[bytes], None], clock: Clock) -> None:
        self._file = file
        self._read = read
        self._now_ns = clock.now_ns
        self._asked: deque[tuple[Sequence[bytes], int]] = deque(maxlen=BATCHES_MAX)
        self._reading = threading.Lock()
        self._closed = False
        self._thread: threading.Thread | None = None
        self.is_over = False
        """Whether the loop may read the store again."""

    def ask(self, keys: Sequence[bytes], time_ns: int) -> None:
        """Let the thread read a batch's keys; it is in time if that takes no longer than `time_ns`. Never waits."""
        self._asked.append((keys[:KEYS_MAX], time_ns))
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="store-probe", daemon=True)
            self._thread.start()

    def close(self) -> bool:
        """Read no more, since the file is about to be let go: wait for the key that is being read, if it comes at all.

        Return whether it came.
        """
        self._closed = True
        is_out = self._reading.acquire(timeout=CLOSE_S_MAX)
        if is_out:
            self._reading.release()
        return is_out

    def _run(self) -> None:
        """Read what has been asked, round by round, until a whole round is in time or there is none."""
        try:
            while self._asked and not self.is_over:
                asked = [self._asked.popleft() for _ in range(len(self._asked))]
                in_time = [
                    self._is_in_time(keys, time_ns) for keys, time_ns in asked
                ]  # each is read, whatever the last
                self.is_over = all(in_time)
        except (OSError, StoreError):
            self.is_over = True

    def _is_in_time(self, keys: Sequence[bytes], time_ns: int) -> bool:
        """Read one batch. In time is also what came from memory alone, if a busy loop kept this thread waiting."""
        self._read_first_pages()
        faults, began_ns = page_faults(), self._now_ns()
        for key in keys:
            with self._reading:
                if self._closed:
                    raise StoreError("the probe is closed")
                self._read(key)
        return self._now_ns() - began_ns <= time_ns or page_faults() == faults

    def _read_first_pages(self) -> None:
        file = os.open(self._file, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.pread(file, _FIRST_PAGES_BYTES, 0)
        finally:
            os.close(file)


def page_faults() -> int:
    """Return how many pages this thread has had to wait for, because they were not in memory."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_majflt
