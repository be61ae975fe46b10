"""Who gets the core: a loop that wakes has it at once, what computes for long leaves it.

Two things decide that, and a share of the core is neither. The slice (Linux 6.12): of two that have their due, the one
with the shorter slice goes first, and takes the core from the other when it wakes. The niceness: it counts within a
session only where the kernel groups processes by sessions (autogroup), and every child of the supervisor has its own;
so that of the session itself is set too.
"""

from __future__ import annotations

import ctypes
import os
import platform
import random
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from errno import EAGAIN
from pathlib import Path
from typing import Final

PROMPT_SLICE_NS: Final = 500_000
"""Of a loop. The kernel's own choice is about 3 ms; it takes 0.1 to 100 ms."""
LONG_SLICE_NS: Final = 100_000_000
"""Of what nobody waits for: where others want the core too, its turn comes late."""
SCHED_SETATTR: Final = {"x86_64": 314, "aarch64": 274}
"""The number of the system call, by machine; Python and older C libraries have no function of it."""
RELEASE_S_MAX: Final = 10.0
"""How long a process asks for its whole share again: a hundred that are ready at once all have it by then."""
GIVING_WAY_S_MAX: Final = 5.0
"""On a core that others want whole, a start would take ten times as long; whoever waits for it waits no longer so."""
LOADING_NICE: Final = 10
"""Of a process that loads models beside one that serves: a tenth of a core that is wanted whole."""


def be_prompt() -> None:
    """Have the calling thread go first when it wakes; what it begins later inherits that. For loops."""
    _set_slice(os.SCHED_OTHER, 0, PROMPT_SLICE_NS)


def stand_back(nice: int) -> None:
    """Let the loop of the process have the core before the calling thread, which callers wait for too.

    nice: 0 to 19, of the thread from now on. What the kernel does not know is left out.
    """
    _set_nice(nice)
    _set_slice(os.SCHED_OTHER, nice, 0)


def give_way(nice: int) -> None:
    """Let all others have the core before the calling thread, for which nobody waits.

    nice: 0 to 19, of the thread from now on. What the kernel does not know is left out.
    """
    _set_nice(nice)
    _set_slice(os.SCHED_BATCH, nice, LONG_SLICE_NS)


def give_way_whole(nice: int, tries: int = 20) -> None:
    """Let all others have the core before this process, which leads a session, and for which nobody waits.

    nice: 0 to 19. Of the session too, or in its turn among sessions it would have as much as each of them. tries: a
    tenth of a second apart, since the kernel takes one such request at a time.
    """
    give_way(nice)
    for _ in range(tries):
        if _set_session(os.getpid(), nice):
            return
        time.sleep(0.1)


def hold_back(pid: int) -> None:
    """Let other processes have the core before one that was just begun, until it is at the end of `giving_way`.

    It leads a session. What it does first, such as importing its code, is held back too.
    """
    _set_session(pid, LOADING_NICE)
    _set_slice(os.SCHED_BATCH, 0, LONG_SLICE_NS, pid)


def let_go(pid: int) -> None:
    """Give a process that was begun by one that gives way the share that all have."""
    _set_slice(os.SCHED_OTHER, 0, 0, pid)


def begin_giving_way(limit_s: float = GIVING_WAY_S_MAX) -> Callable[[], None]:
    """Let other processes have the core before this one; return what ends that, which comes of itself after `limit_s`.

    To be called on the main thread, before others are begun, which inherit it. A thread's own niceness cannot be taken
    back without privileges, and is left as it is.
    """
    leads = os.getsid(0) == os.getpid()  # else the session is others' too
    if leads:
        _set_session(os.getpid(), LOADING_NICE)
    _set_slice(os.SCHED_BATCH, 0, LONG_SLICE_NS)
    timer = threading.Timer(limit_s, _come_forward, (os.getpid(), leads))
    timer.daemon = True
    timer.start()

    def end() -> None:
        timer.cancel()
        _come_forward(os.getpid(), leads)

    return end


@contextmanager
def giving_way(limit_s: float = GIVING_WAY_S_MAX) -> Iterator[None]:
    """Let other processes have the core before this one until the end of the block; see `begin_giving_way`."""
    end = begin_giving_way(limit_s)
    try:
        yield
    finally:
        end()


def _come_forward(pid: int, leads: bool) -> None:
    """Have the main thread of this process, and the session that it leads, the share that all have."""
    let_go(pid)
    if leads:
        _release_session(pid)


def _set_nice(nice: int) -> None:
    """Set the niceness of the calling thread alone."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)


def _set_slice(policy: int, nice: int, slice_ns: int, thread: int = 0) -> None:
    """Have the kernel give a thread, the calling one for 0, slices of another length; 0 for its own choice."""
    if (number := SCHED_SETATTR.get(platform.machine())) is not None:
        asked = struct.pack("=IIQiIQQQ", 48, policy, 0, nice, 0, slice_ns, 0, 0)  # struct sched_attr
        ctypes.CDLL(None).syscall(number, thread, ctypes.create_string_buffer(asked, len(asked)), 0)


def _set_session(pid: int, nice: int) -> bool:
    """Set the niceness of the session that a process leads; return whether the kernel took it, or knows no sessions."""
    try:
        Path(f"/proc/{pid}/autogroup").write_text(f"{nice}\n")
    except OSError as error:
        return error.errno != EAGAIN
    return True


def _release_session(pid: int) -> None:
    """Take back the niceness of a session.

    Without privileges the kernel takes one such request every 100 ms of the whole machine, and refuses all others: of
    workers that are ready at the same time all but one would serve with what they had while they loaded.
    """
    end_s = time.monotonic() + RELEASE_S_MAX
    while not _set_session(pid, 0) and time.monotonic() < end_s:
        time.sleep(random.uniform(0.01, 0.12))
