"""How long the prediction log is kept: by its age, and by the bytes that it takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tailrace.monitor.log.files import SEALED


def sweep_log(root: Path, *, age_s_max: float, bytes_max: int, now_s: Callable[[], float] = time.time) -> int:
    """Remove the whole files that are too old, and the oldest until the rest takes no more bytes; return how many.

    What is being written is left, and folders go that are empty. Raises OSError.
    """
    found = []
    for path in root.glob(f"*/*/*{SEALED}"):
        with suppress(FileNotFoundError):  # a second server may sweep the same log
            about = path.stat()
            found.append((about.st_mtime, path, about.st_size))
    found.sort()
    size = sum(each[2] for each in found)
    removed = 0
    for written_s, path, file_bytes in found:
        if now_s() - written_s <= age_s_max and size <= bytes_max:
            break
        path.unlink(missing_ok=True)
        size -= file_bytes
        removed += 1
        with suppress(OSError):  # others are in it
            path.parent.rmdir()
    return removed
