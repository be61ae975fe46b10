"""Leases: one run at a time writes a view of a store. A second one is told who holds it, and since when."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pwd
import secrets
import socket
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol

import msgspec

from tailrace.errors import LeaseError, StoreError

_NO_LOCKS: Final = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP})
"""What a file system answers that has no locks."""


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """Who holds a lease. who: host and process id. since_ns: since the epoch. token: of this lease alone."""

    who: str
    since_ns: int
    token: str

    @staticmethod
    def here() -> Holder:
        """Return this process as the holder of a new lease."""
        return Holder(who=f"{socket.gethostname()}:{os.getpid()}", since_ns=time.time_ns(), token=secrets.token_hex(8))

    @property
    def since(self) -> str:
        """Since when, as ISO 8601 in UTC."""
        return datetime.fromtimestamp(self.since_ns // 10**9, UTC).isoformat()


class Lease(Protocol):
    """The right to write a view. A run that dies without a word loses it: at once with files, later on Redis."""

    @property
    def holder(self) -> Holder:
        """Who holds it: this process."""
        ...

    def check(self) -> None:
        """Raise LeaseError where another run is known to hold it by now."""
        ...

    def close(self) -> None:
        """Let the next run have it."""
        ...


def held_error(view: str, held: bytes, where: str) -> LeaseError:
    """Return the error of a second run. held: what the holder wrote of itself, maybe nothing yet."""
    try:
        holder = msgspec.json.decode(held, type=Holder)
        by = f"{holder.who} since {holder.since}"
    except msgspec.DecodeError:
        by = "a run that has not said who it is"
    return LeaseError(f"{view} is being written by {by}", where=where,
                      next="wait until it has ended, or let --wait 10m do so; see what it does there")  # fmt: skip


class FileLease:
    """A lock on a file beside the store's own: the kernel releases it when the process ends, however that is.

    Raises LeaseError where another run holds it, StoreError where the file can be neither made nor read, or not locked.
    """

    def __init__(self, folder: str | Path, view: str) -> None:
        self.holder = Holder.here()
        path = os.path.join(folder, f"{view}.lease")
        try:
            self._file = _open(path)
        except OSError as error:
            raise _untaken_error(error, path) from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            held = os.pread(self._file, 4_096, 0)
            os.close(self._file)
            raise held_error(view, held, str(folder)) from None
        except OSError as error:
            os.close(self._file)
            raise _untaken_error(error, path) from None
        with contextlib.suppress(OSError):  # a full disk, or another user's file: then nobody is told who holds it
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, msgspec.json.encode(self.holder), 0)

    def check(self) -> None:
        """Do nothing: the kernel takes no lock from a process that lives."""

    def close(self) -> None:
        """Let the next run have it. The file stays: to remove it would let two runs lock two files of one name.

        It is emptied: the next one may be a user's who cannot write into it, and would be told as this one.
        """
        with contextlib.suppress(OSError):
            os.ftruncate(self._file, 0)
        os.close(self._file)


def _open(path: str) -> int:
    """Return a lease's file, opened; only to read where it is another user's: enough for a lock, but on NFS."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except PermissionError as error:
        try:
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            raise error from None


def _untaken_error(error: OSError, path: str) -> StoreError:
    """Return the error of a lease whose file cannot be opened or locked, for another reason than that it is held."""
    owner = _owner_of(path)
    if error.errno in _NO_LOCKS:
        way = "keep the store on a file system that has locks"
    elif owner:
        way = "remove the file while no run writes the view, or run as its owner"
    else:
        way = "see that the directory is yours"
    whose = f"the file is of {owner}" if owner else "there is no file"
    return StoreError(f"the lease cannot be taken: {error.strerror}; {whose}", where=path, next=way)


def _owner_of(path: str) -> str:
    """Return who owns a file, by name where there is one; nothing where there is no file that can be seen."""
    try:
        number = os.stat(path).st_uid
    except OSError:
        return ""
    try:
        return f"{pwd.getpwuid(number).pw_name} (uid {number})"
    except KeyError:
        return f"uid {number}"
