"""A directory brought to the disk before a rename gives it its name: a power failure leaves no name without content."""

from __future__ import annotations

import os
from pathlib import Path


def flush_directory(folder: Path) -> None:
    """Have a directory and all in it on the disk, since a rename may come there before what is renamed."""
    for path in (*folder.rglob("*"), folder):
        flush(path)


def flush(path: Path) -> None:
    """Have a file's content, or a directory's names, on the disk; the latter where its file system can."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError:
        if not path.is_dir():  # not every file system does this for a folder
            raise
    finally:
        os.close(descriptor)
