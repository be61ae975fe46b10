"""The directory that pinned releases are kept in: copies named by their content, and who holds them.

    sources/DIGEST/…          the modules of a file's folder
    models/DIGEST/…           a model directory
    servers/PID-TIME/         of one server: `held` is locked while it lives, the other files say what it holds
    lock                      is held by whoever adds or removes

A copy is written beside its place, and renamed when it is whole and on the disk; nothing writes to it after that. One
that is found damaged (some systems empty /tmp) is exchanged for a whole one.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tailrace.errors import SetupError
from tailrace.release.flush import flush_directory

SOURCES: Final = "sources"
MODELS: Final = "models"
SERVERS: Final = "servers"
HELD: Final = "held"
DIGEST_CHARACTERS: Final = 32
NAME_ANOTHER: Final = "see that the disk has room, or name another directory: --releases DIR"
_READABLE: Final = stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH
_COPIED_BYTES: Final = 1 << 20


class Shelf:
    """One such directory. It is made where there is none; raises OSError where that cannot be, or cannot be written."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(mode=0o700, parents=True, exist_ok=True)  # a module may hold a secret
        for name in (SOURCES, MODELS, SERVERS):
            (root / name).mkdir(exist_ok=True)
            if not os.access(root / name, os.W_OK):
                raise PermissionError(errno.EACCES, f"{os.strerror(errno.EACCES)}: {root / name}")
        self._lock = _open_lock(root / "lock")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # some network file systems have no locks
            fcntl.flock(self._lock, fcntl.LOCK_UN)
        except BlockingIOError:  # another has it
            pass
        except OSError:
            os.close(self._lock)
            raise

    def close(self) -> None:
        """Let go of the directory."""
        os.close(self._lock)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep all others, of this process and of others, from adding and removing meanwhile.

        Raises SetupError where the directory cannot be written, in the block too.
        """
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._lock, fcntl.LOCK_UN)
        except OSError as error:
            what = f"the release cannot be kept: {error.strerror or error}"
            raise SetupError(what, where=str(self.root), next=NAME_ANOTHER) from error

    def path_of(self, kind: str, digest: str) -> Path:
        """Return where the copy of that content is, or would be."""
        return self.root / kind / digest

    def add(self, kind: str, fill: Callable[[Path], str], digest: Callable[[Path], str]) -> Path:
        """Keep what `fill` writes into a directory, under the digest that it returns; return its place.

        What is there already stays, and the new one goes, unless it is damaged. digest: computes that of a copy.
        """
        draft = self.make_folder(kind, ".")
        try:
            path = self.path_of(kind, fill(draft))
            if not path.is_dir():
                flush_directory(draft)
                draft.rename(path)
            elif digest(path) != path.name:
                from tailrace.release.exchange import replace_directory  # only now: it is hardly ever needed

                flush_directory(draft)
                replace_directory(draft, path)  # in one step: a living server may hold it
        finally:
            _remove(draft)
        return path

    def make_folder(self, kind: str, prefix: str = "") -> Path:
        """Make a folder of a name that no other has."""
        folder = self.root / kind / f"{prefix}{os.getpid()}-{time.time_ns()}"
        folder.mkdir()
        return folder

    def sweep(self, holds_of: Callable[[Path], Iterable[Path]], is_logged: Callable[[Path], bool]) -> int:
        """Remove the copies that no living server holds, and what is left of servers that are gone; return how many.

        holds_of: says of a server's folder which copies it holds; nothing is removed where it raises ValueError. The
        server may know this directory by another name (of a container, say): only the last two parts of a path count.
        is_logged: whether a folder is none of a server, but holds what a log needs.
        """
        held: set[tuple[str, ...]] = set()
        for server in (self.root / SERVERS).iterdir():
            if _is_held(server / HELD) or is_logged(server):
                try:
                    held.update(copy.parts[-2:] for copy in holds_of(server))
                except ValueError:
                    return 0
            else:
                _remove(server)
        removed = 0
        for kind in (SOURCES, MODELS):
            for copy in (self.root / kind).iterdir():
                if copy.parts[-2:] not in held:
                    _remove(copy)
                    removed += 1
        return removed


def copy_files(files: Mapping[str, Path], folder: Path) -> str:
    """Copy files to their names under a folder; return the digest of names and contents.

    Raises SetupError for one that cannot be read.
    """
    digests = {}
    for name, path in sorted(files.items()):
        try:
            source = path.open("rb")
        except OSError as error:
            raise SetupError(f"cannot be read for the release: {error.strerror}", where=str(path)) from error
        with source:
            digests[name] = copy_stream(source.fileno(), folder / name)
    return digest_of(digests)


def folder_digest(folder: Path) -> str:
    """Return the digest of a folder's files, as `copy_files` does; nothing where one cannot be read."""
    try:
        return digest_of({str(path.relative_to(folder)): _sha256(path) for path in _files_in(folder)})
    except OSError:
        return ""


def copy_stream(source: int, path: Path) -> str:
    """Copy what a descriptor gives to a file that nobody may write to; return the sha256 of it, in hex."""
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with path.open("wb") as copy:
        while chunk := os.read(source, _COPIED_BYTES):
            digest.update(chunk)
            copy.write(chunk)
    path.chmod(os.fstat(source).st_mode & _READABLE | stat.S_IRUSR)
    return digest.hexdigest()


def digest_of(value: object) -> str:
    """Return the digest of a value that JSON can hold."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_CHARACTERS]


def _sha256(path: Path) -> str:
    """Return the sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files_in(folder: Path) -> Iterator[Path]:
    """Give the files of a folder and of those within it."""
    return (path for path in folder.rglob("*") if not path.is_dir())


def _remove(folder: Path) -> None:
    """Remove a folder, if it is there."""
    if folder.is_dir():
        import shutil  # only now: it would take a worker a megabyte, and most have nothing to remove

        shutil.rmtree(folder, ignore_errors=True)


def hold(file: Path) -> int:
    """Make a file that is known to be held as long as this process keeps the returned descriptor open."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor


def _open_lock(file: Path) -> int:
    """Return a file opened to be locked: to write, without which NFS locks none for one alone, or else to read."""
    try:
        return os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except PermissionError:  # another user's
        return os.open(file, os.O_RDONLY | os.O_CLOEXEC)


def _is_held(file: Path) -> bool:
    """Say whether a living process holds a file, or may."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:  # another user's: it is left to that user's servers
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # all that NFS gives to one who only reads
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False
