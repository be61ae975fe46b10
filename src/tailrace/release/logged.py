"""Releases that a prediction log names: kept as long as it does, so that what they have decided can be computed again.

LOG/.releases/ID           says which shelf keeps it; its time, when lines of that release were written last
SHELF/servers/logged-ID/   its pin and what was settled, as a server's folder has them, and `logs`, which names logs
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from tailrace.release.pinned import PIN, RELEASE, Pin, pinned_as, write_whole
from tailrace.release.shelf import SERVERS, Shelf

NAMED: Final = ".releases"
_LOGGED: Final = "logged-"
_LOGS: Final = "logs"


class _Logs(msgspec.Struct, frozen=True):
    """Which logs name a release, by their paths."""

    paths: tuple[str, ...]


def name_release(log: Path, release: str) -> None:
    """Note that a log has lines of a release, now. Raises OSError."""
    (log / NAMED).mkdir(mode=0o700, parents=True, exist_ok=True)
    (log / NAMED / release).touch()


def is_told(log: Path, release: str) -> bool:
    """Say whether a log tells where one that it names is kept."""
    with suppress(FileNotFoundError):
        return (log / NAMED / release).stat().st_size > 0
    return False


def shelf_named(log: Path, release: str) -> Path | None:
    """Return the directory of releases that keeps one that a log names, as its server called it; None if unknown.

    That directory must name the log in turn: the code of a release is run, and a log may come from anywhere.
    """
    try:
        shelf = Path((log / NAMED / release).read_text())
    except (OSError, UnicodeDecodeError):
        return None
    knows_it = os.path.realpath(log) in _logs_of(shelf / SERVERS / f"{_LOGGED}{release}")
    return shelf if shelf.is_absolute() and knows_it else None


def forget_releases(log: Path, oldest_s: float) -> None:
    """Drop the releases that a log had its last lines of before its oldest file was begun. Raises OSError."""
    with suppress(FileNotFoundError):
        for path in (log / NAMED).iterdir():
            if path.stat().st_mtime < oldest_s:
                path.unlink()


def keep_logged(shelf: Shelf, pinned: Pin, release: str, log: Path) -> None:
    """Have a release of a server kept for a log, also when the server has ended, or serves another.

    One that the server does not know is left. Raises SetupError where the shelf cannot be written.
    """
    with shelf.locked():
        for pin, settled in pinned_as(release, Path(pinned.folder)):
            folder = shelf.root / SERVERS / f"{_LOGGED}{release}"
            folder.mkdir(exist_ok=True)
            logs = {*_logs_of(folder), os.path.realpath(log)}
            write_whole(folder / _LOGS, _Logs(tuple(sorted(logs))))
            write_whole(folder / f"{PIN}1.json", pin)
            write_whole(folder / f"{RELEASE}1.json", settled)
            (log / NAMED / release).write_text(str(shelf.root))
            return


def is_logged(server: Path) -> bool:
    """Say whether a folder of a shelf is a release that a log still names. A log that is not there names none."""
    release = server.name.removeprefix(_LOGGED)
    return any((Path(log) / NAMED / release).exists() for log in _logs_of(server))


def _logs_of(folder: Path) -> tuple[str, ...]:
    try:
        return msgspec.json.decode((folder / _LOGS).read_bytes(), type=_Logs).paths
    except (OSError, msgspec.DecodeError):
        return ()
