"""A cold start: a store's file is read into memory, so that no page of it is first read on the loop.

What is in memory already is found out here and now, for `AT_ONCE_S` at most (45 ms for each GiB); the rest is read by a
thread, in the file's order, which a disk does far faster than one page here and there, and `os.preadv` lets go of the
interpreter's lock. No thread without need: once a process has had one, glibc takes its locks with atomic instructions
and guards its system calls for ever, 2% of a request.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from typing import Final

MEMORY_SHARE: Final = 4
"""No more of a file than a quarter of the machine's memory is read; the rest is read when it is asked for."""

CHUNK_BYTES: Final = 1 << 20
WAIT_S_MAX: Final = 2.0
"""How long a server that starts waits for its file; the thread goes on behind it."""

AT_ONCE_S: Final = 0.1
_LOOK_S: Final = 0.01


class Warming:
    """Reads one file into memory, once; what is not there at once on a thread that ends by itself."""

    def __init__(self, file: str) -> None:
        self._bytes_max = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // MEMORY_SHARE
        self._closed = False
        self._wait_until_s = time.monotonic() + WAIT_S_MAX
        self._thread: threading.Thread | None = None
        try:
            descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # whoever reads the store reports a file that cannot be read
            return
        begin = self._pass_over(descriptor)
        if begin is None:
            os.close(descriptor)
            return
        self._thread = threading.Thread(target=self._run, args=(descriptor, begin), name="store-warming", daemon=True)
        self._thread.start()

    @property
    def is_running(self) -> bool:
        """Whether the file is still being read."""
        return self._thread is not None and self._thread.is_alive()

    async def wait(self) -> None:
        """Wait until the file is in memory, `WAIT_S_MAX` at most. Suspends only for a file that takes its time."""
        if self._thread is not None:
            self._thread.join(AT_ONCE_S)
        while self.is_running and time.monotonic() < self._wait_until_s:
            await asyncio.sleep(_LOOK_S)

    def join(self) -> None:
        """Wait until the thread has ended, however long it takes."""
        if self._thread is not None:
            self._thread.join()

    def close(self) -> None:
        """Read no more."""
        self._closed = True

    def _pass_over(self, file: int) -> int | None:
        """Return where what is not in memory begins, as far as can be seen at once; None where all is in memory."""
        chunk, offset, until_s = bytearray(CHUNK_BYTES), 0, time.monotonic() + AT_ONCE_S
        try:
            while offset < self._bytes_max and (found := os.preadv(file, [chunk], offset, os.RWF_NOWAIT)):
                offset += found
                if time.monotonic() > until_s:
                    return offset
        except OSError:  # the next page is on disk (EAGAIN), or the file system cannot tell
            return offset
        return None

    def _run(self, file: int, begin: int) -> None:
        """Read the file from some place on, and let go of it."""
        try:
            chunk = bytearray(CHUNK_BYTES)
            for offset in range(begin, self._bytes_max, CHUNK_BYTES):
                if self._closed or not os.preadv(file, [chunk], offset):
                    return
        except OSError:
            return
        finally:
            os.close(file)
