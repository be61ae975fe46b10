"""A registry in a directory: an object is written beside its place, flushed, and named when it is whole."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from tailrace.release.registry.partial import partial_key
from tailrace.release.registry.storage import CHUNK_BYTES, OBJECT_BYTES_MAX, Found, OnBytes

_FILE_MODE: Final = 0o644
_NO_LINKS: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS})
"""What file systems without hard links say: of a file of one's own, nothing else forbids one so."""


class FolderStorage:
    """Objects as files under a root. The file system must know hard links, as those of Linux do."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self.url = str(self._root)

    def find(self, prefix: str) -> list[Found]:
        """Return the files whose key begins so; see `Storage`."""
        folder = self._root / prefix.rpartition("/")[0]
        return sorted(found for found in self._files(folder) if found.key.startswith(prefix))

    def _files(self, folder: Path) -> Iterator[Found]:
        for path, _, names in os.walk(folder, onerror=_raise):
            for name in names:
                file = Path(path, name)
                with suppress(FileNotFoundError):  # another removes it meanwhile
                    status = file.stat()
                    key = file.relative_to(self._root).as_posix()
                    yield Found(key, status.st_size, status.st_mtime)

    def look(self, key: str) -> Found:
        """Return a file as a listing has it."""
        try:
            status = (self._root / key).stat()
        except NotADirectoryError as error:
            raise FileNotFoundError(str(error)) from error
        if not stat.S_ISREG(status.st_mode):
            raise FileNotFoundError(f"{key} is no file")
        return Found(key, status.st_size, status.st_mtime)

    def read(self, key: str) -> bytes:
        """Return a small file."""
        with (self._root / key).open("rb") as file:
            content = file.read(OBJECT_BYTES_MAX + 1)
        if len(content) > OBJECT_BYTES_MAX:
            raise ValueError(f"it has over {OBJECT_BYTES_MAX} bytes")
        return content

    def stream(self, key: str) -> Iterator[bytes]:
        """Give a file in parts."""
        with (self._root / key).open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk

    def write(self, key: str, content: bytes) -> None:
        """Put a file in the place of another, by a rename."""
        with self._draft() as draft:
            _fill(draft, content)
            self._name(draft, key)

    def create(self, key: str, content: bytes) -> None:
        """Put a file where there is none: by a hard link, which fails where there is one."""
        place = self._place(key)
        with self._draft() as draft:
            _fill(draft, content)
            _link(draft, place)
            _flush_folder(place.parent)

    def upload(self, key: str, path: Path, sha256: str, on_bytes: OnBytes) -> None:
        """Copy a file to its key, and compute the sha256 of what is copied."""
        digest = hashlib.sha256()
        with self._draft() as draft, path.open("rb") as source:
            with draft.open("wb") as copy:
                while chunk := source.read(CHUNK_BYTES):
                    digest.update(chunk)
                    copy.write(chunk)
                    on_bytes(len(chunk))
                copy.flush()
                os.fsync(copy.fileno())
            if digest.hexdigest() != sha256:
                raise OSError(f"{path} was altered while it was read")
            draft.chmod(0o444)
            self._name(draft, key)

    def delete(self, key: str) -> None:
        """Remove a file, if it is there."""
        place = self._root / key
        with suppress(FileNotFoundError, NotADirectoryError):
            place.unlink()
            _flush_folder(place.parent)

    @contextmanager
    def _draft(self) -> Iterator[Path]:
        """Give the path of a file of this process's own, and remove what is there in the end."""
        draft = self._place(partial_key())
        try:
            yield draft
        finally:
            with suppress(FileNotFoundError):
                draft.unlink()

    def _place(self, key: str) -> Path:
        """Return the path of a key, in a folder that is there."""
        place = self._root / key
        place.parent.mkdir(parents=True, exist_ok=True)
        return place

    def _name(self, draft: Path, key: str) -> None:
        """Give a whole file its name."""
        place = self._place(key)
        draft.replace(place)
        _flush_folder(place.parent)


def _fill(draft: Path, content: bytes) -> None:
    """Have content on the disk."""
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE_MODE)
    with open(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _link(draft: Path, place: Path) -> None:
    """Give a file a name that no other has. Raises OSError also where the file system has no such links."""
    try:
        os.link(draft, place)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        raise OSError(f"{place.parent} is on a file system without hard links, which two writers need") from error


def _flush_folder(folder: Path) -> None:
    """Have a folder's names on the disk, where its file system can."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _raise(error: OSError) -> None:
    """Raise what a walk would keep to itself, but for a folder that is not there."""
    if not isinstance(error, FileNotFoundError):
        raise error
