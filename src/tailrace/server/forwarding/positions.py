"""How far each file of the prediction log is sent on, kept beside the log: a successor goes on there.

    DIR/.sent/DIGEST.json   of one sink, whose address the digest is of
    DIR/.sent/DIGEST.lock   held by who sends: two servers may share a log, and one of them sends it

Files are named by their path without its ending, so that a draft that becomes whole goes on where it was.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

FOLDER: Final = ".sent"


class FilePosition(msgspec.Struct, array_like=True):
    """Of one file. sent: lines; total: that it has, -1 while it is a draft."""

    sent: int = 0
    total: int = -1

    @property
    def is_done(self) -> bool:
        """Whether it is whole, and all of it is sent."""
        return 0 <= self.total <= self.sent


class Positions:
    """The positions of one sink. Raises OSError, and BlockingIOError where another process has them."""

    def __init__(self, root: Path, sink: str) -> None:
        folder = root / FOLDER
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = folder / f"{hashlib.sha256(sink.encode()).hexdigest()[:16]}.json"
        self._lock = os.open(self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise
        self.files = self.saved()

    def saved(self) -> dict[str, FilePosition]:
        """Return what was written last; nothing where that cannot be read."""
        with suppress(OSError, msgspec.DecodeError):
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, FilePosition])
        return {}

    def save(self) -> None:
        """Write them, whole; also where somebody has removed the log."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = self._path.with_suffix(".part")
        draft.write_bytes(msgspec.json.encode(self.files))
        draft.replace(self._path)

    def close(self) -> None:
        """Let another process have them."""
        os.close(self._lock)
