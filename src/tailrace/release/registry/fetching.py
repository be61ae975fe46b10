"""A version brought to a directory: each file is held against its sha256 while it is read, and never read on beyond."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tailrace.errors import RegistryError
from tailrace.release.exchange import check_place, drafted
from tailrace.release.probe import probe_directory
from tailrace.release.registry.records import FileRecord, VersionRecord, damaged
from tailrace.release.registry.registering import OnProgress
from tailrace.release.registry.registry import Registry, file_key


def fetch(
    registry: Registry, record: VersionRecord, out: Path, *, on_progress: OnProgress = lambda f, d, w: None
) -> None:
    """Write a version's files into an empty directory.

    Raises RegistryError: a file is missing in the registry, or not what was registered; ModelPackageError: together
    they are no model directory, or its graph does not stay small. What was written stays: give a directory that you
    remove then.
    """
    whole, done = record.size_bytes, 0
    _check_room(out, record)

    def carried(name: str, count: int) -> None:
        nonlocal done
        done += count
        on_progress(name, done, whole)

    for name, file in record.files.items():
        _fetch_file(registry, record, name, file, out / name, carried)
    probe_directory(out)


def _check_room(out: Path, record: VersionRecord) -> None:
    """Raise RegistryError where a version's files do not fit, before a byte is read."""
    with _written(out):
        free_bytes = shutil.disk_usage(out).free
    if record.size_bytes > free_bytes:
        raise RegistryError(
            f"{record.reference} has {record.size_bytes:,} bytes, and {free_bytes:,} are free",
            where=str(out),
            next="make room, or name another directory",
        )


def _fetch_file(
    registry: Registry,
    record: VersionRecord,
    name: str,
    file: FileRecord,
    path: Path,
    carried: Callable[[str, int], None],
) -> None:
    """Write one file of a version where none is."""
    with _written(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        target = path.open("xb")

    def write(chunk: bytes) -> None:
        with _written(path):
            target.write(chunk)
        carried(name, len(chunk))

    with _written(path), target:
        check_file(registry, record, name, file, write)


def check_file(
    registry: Registry,
    record: VersionRecord,
    name: str,
    file: FileRecord,
    write: Callable[[bytes], None] = lambda chunk: None,
) -> None:
    """Read a file of a version, give its parts to `write`, and raise RegistryError unless it is what was registered."""
    where, digest, size_bytes = f"{record.reference}: {name}", hashlib.sha256(), 0
    with registry.told():
        try:
            for chunk in registry.storage.stream(file_key(file.sha256)):
                size_bytes += len(chunk)
                if size_bytes > file.size_bytes:
                    raise damaged(where, f"it has more than its {file.size_bytes} bytes")
                digest.update(chunk)
                write(chunk)
        except FileNotFoundError:
            raise damaged(where, "the file is missing in the registry") from None
    if size_bytes != file.size_bytes or digest.hexdigest() != file.sha256:
        raise damaged(
            where,
            f"its {size_bytes} bytes have sha256 {digest.hexdigest()[:12]}…, "
            f"the record says {file.size_bytes} bytes and {file.sha256[:12]}…",
        )


def fetch_directory(
    registry: Registry,
    record: VersionRecord,
    out: Path,
    *,
    overwrite: bool = False,
    on_progress: OnProgress = lambda f, d, w: None,
) -> None:
    """Put a version's files in a directory of their own, whole or not at all. Raises RegistryError as `fetch` does."""
    check_place(out, overwrite=overwrite, error=RegistryError)
    with _written(out), drafted(out) as draft:
        fetch(registry, record, draft, on_progress=on_progress)


@contextmanager
def _written(path: Path) -> Iterator[None]:
    """Tell of a directory here that cannot be written, which is not the registry's fault."""
    try:
        yield
    except OSError as error:
        raise RegistryError(
            f"the version cannot be written here: {error.strerror or error}",
            where=str(path),
            next="see that the disk has room, or name another directory",
        ) from error
