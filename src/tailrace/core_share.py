"""Who gets the core: a thread that computes for long leaves it at once to whoever wakes beside it.

Niceness counts within a session only where the kernel groups processes by sessions (autogroup). So the thread asks for
long slices too: who wakes beside it takes the core from it without waiting for the slice to end (Linux 6.12).
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import threading
from contextlib import suppress
from typing import Final

SLICE_NS: Final = 100_000_000
"""The longest that the kernel takes."""
SCHED_SETATTR: Final = {"x86_64": 314, "aarch64": 274}
"""The number of the system call, by machine; Python and older C libraries have no function of it."""


def give_way(nice: int) -> None:
    """Let others have the core before the calling thread, and before no other thread of its process.

    nice: 0 to 19, of the thread from now on. What the kernel does not know is left out.
    """
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)
    if (number := SCHED_SETATTR.get(platform.machine())) is not None:
        asked = struct.pack("=IIQiIQQQ", 48, os.SCHED_BATCH, 0, nice, 0, SLICE_NS, 0, 0)  # struct sched_attr
        ctypes.CDLL(None).syscall(number, 0, ctypes.create_string_buffer(asked, len(asked)), 0)
