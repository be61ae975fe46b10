"""Two clocks that do not lie to whoever removes: the storage's own time, and this machine's with its sleep."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Final

from tailrace.release.registry.partial import partial_key
from tailrace.release.registry.storage import Storage

_UPTIME: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def storage_time_s(storage: Storage) -> float:
    """Return the time by the storage's own clock, in seconds since 1970: when an object is written now.

    The clocks of those who write differ; what is removed because of its age is removed by this one alone.
    """
    key = partial_key()
    storage.write(key, b"")
    try:
        return storage.look(key).modified_s
    finally:
        with suppress(OSError):  # a collection removes it later
            storage.delete(key)


def uptime_s() -> float:
    """Return the seconds since the boot, those that the machine slept too, which time.monotonic leaves out."""
    return time.clock_gettime(_UPTIME)
