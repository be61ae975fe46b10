"""The limit of open files: raised as far as the system lets, and no more connections promised than it has room for."""

from __future__ import annotations

import os
import resource
import sys
from contextlib import suppress
from typing import Final

import msgspec

from tailrace.server.http.shared import RESERVE_MAX
from tailrace.server.logging import logger
from tailrace.server.options import ServeOptions

_FILES_SPARE: Final = 64 + RESERVE_MAX
"""Open files of a worker besides its connections and two a slot: stores, which are opened again, channels, and the
connections over the limit that are answered once."""


def fit_open_files(options: ServeOptions) -> ServeOptions:
    """Return the options with no more connections than there are open files for; a call on one over these gets a 503.

    Without, the loop would accept what it has no file for and drop it, without a word. Children inherit the limit.
    """
    files_max, wanted = _raise_files_max(), options.connections_max
    room = max(files_max - _FILES_SPARE - 2 * options.workers, 1)
    if room >= wanted:
        return options
    logger(pid=os.getpid()).warning(
        "the limit of open files is under connections_max", connections_max=wanted, files_max=files_max, used=room
    )
    return msgspec.structs.replace(options, connections_max=room)


def _raise_files_max() -> int:
    """Raise this process's limit of open files as far as it may; return the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft
