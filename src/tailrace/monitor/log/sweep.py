"""How long the prediction log is kept: by its age, and by the bytes that it takes."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from tailrace.monitor.log.labels import LABELS, LABELS_NAME
from tailrace.monitor.log.names import DAMAGED, SEALED

_HOUR_FOLDER: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d")
_FILE: Final = re.compile(rf"\d+-\d+-\d+({re.escape(SEALED)}|{re.escape(DAMAGED)})")


def sweep_log(root: Path, *, age_s_max: float, bytes_max: int, now_s: Callable[[], float] = time.time) -> int:
    """Remove the whole files that are too old, and the oldest until the rest takes no more bytes; return how many.

    Labels go by their age alone. What is being written is left, and so is what is not of the log; folders go that are
    empty. Raises OSError.
    """
    _sweep_labels(root, now_s() - age_s_max)
    found = []
    for path in _log_files(root):
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


def _log_files(root: Path) -> Iterator[Path]:
    """Give the files that nothing is added to. A user's own may lie beside them."""
    for path in root.glob("*/*/*"):
        if _FILE.fullmatch(path.name) and _HOUR_FOLDER.fullmatch(path.parent.name):
            yield path


def _sweep_labels(root: Path, oldest_s: float) -> None:
    """Remove the labels that came before a time: their lines are as old, or older."""
    for path in root.glob(f"*/{LABELS}/*{SEALED}"):
        with suppress(FileNotFoundError):
            if LABELS_NAME.fullmatch(path.name) and path.stat().st_mtime < oldest_s:
                path.unlink()
