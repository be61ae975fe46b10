"""A cold start: a store's file is read into memory by a thread, so that no page of it is first read on the loop.

It reads the file in its order, which a disk does far faster than one page here and there, and `os.preadv` lets go of
the interpreter's lock. A file that is in memory already costs 45 ms for each GiB.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from typing import Final

MEMORY_SHARE: Final = 4
"""No more of a file than a quarter of the machine's memory is read; the rest is read when it is asked for."""

CHUNK_BYTES: Final = 1 << 20
WAIT_S_MAX: Final = 2.0
"""How long a server that starts waits for its file; the thread goes on behind it."""

_AT_ONCE_S: Final = 0.1
_LOOK_S: Final = 0.01


class Warming:
    """Reads one file into memory, once, on a thread that ends by itself."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._bytes_max = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // MEMORY_SHARE
        self._closed = False
        self._wait_until_s = time.monotonic() + WAIT_S_MAX
        self._thread = threading.Thread(target=self._run, name="store-warming", daemon=True)
        self._thread.start()

    @property
    def is_running(self) -> bool:
        """Whether the file is still being read."""
        return self._thread.is_alive()

    async def wait(self) -> None:
        """Wait until the file is in memory, `WAIT_S_MAX` at most. Suspends only for a file that takes its time."""
        self._thread.join(_AT_ONCE_S)
        while self._thread.is_alive() and time.monotonic() < self._wait_until_s:
            await asyncio.sleep(_LOOK_S)

    def join(self) -> None:
        """Wait until the thread has ended, however long it takes."""
        self._thread.join()

    def close(self) -> None:
        """Read no more."""
        self._closed = True

    def _run(self) -> None:
        with contextlib.suppress(OSError):  # whoever reads the store reports a file that cannot be read
            file = os.open(self._file, os.O_RDONLY | os.O_CLOEXEC)
            try:
                chunk = bytearray(CHUNK_BYTES)
                for offset in range(0, self._bytes_max, CHUNK_BYTES):
                    if self._closed or not os.preadv(file, [chunk], offset):
                        return
            finally:
                os.close(file)
