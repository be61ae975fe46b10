"""A model directory read: its files whole, and all of one version though it may be replaced meanwhile."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from tailrace.errors import ModelPackageError
from tailrace.inference.manifest import MANIFEST_FILE, REPACKAGE, Manifest, decode_manifest

_READS_MAX: Final = 50
"""How often a directory is read that is replaced meanwhile."""

READ_BYTES: Final = 256 << 10
"""What is read of a file at once."""

Found = TypeVar("Found")


def read_manifest(directory: str | Path) -> Manifest:
    """Return the manifest of a model directory, after its other files were found whole.

    Raises ModelPackageError: no such directory, a file is missing, the manifest is not one or is of another format
    version, or a file is not the one that was packaged.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise ModelPackageError(
            "there is no such model directory",
            where=str(directory),
            next=f"fetch it: tailrace models fetch {directory.name} --out {directory}"
            if "@" in directory.name  # a version in a registry, which `serve` fetches itself
            else f"package a trained model: tailrace package MODEL --data FILE --name NAME --out {directory}",
        )
    _require_file(directory / MANIFEST_FILE)
    manifest = decode_manifest(directory / MANIFEST_FILE)
    for name, sha256 in manifest.files.items():
        _require_file(directory / name)
        _check_file(directory / name, sha256)
    return manifest


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise ModelPackageError(f"the model directory has no {path.name}", where=str(path.parent), next=REPACKAGE)


def _check_file(path: Path, sha256: str) -> None:
    """Raise ModelPackageError unless the file has this sha256."""
    found = file_sha256(path)
    if found != sha256:
        raise ModelPackageError(
            f"the model file was cut short or altered: its {path.stat().st_size} bytes have sha256 {found[:12]}…, "
            f"the manifest says {sha256[:12]}…",
            where=str(path),
            next="copy the directory again from where it was packaged, or " + REPACKAGE,
        )


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_in_parts(path: Path) -> bytes:
    """Return what a file holds. Raises OSError.

    One read of a large file keeps its core from whoever serves there: a kernel that is built for servers copies 38 MB
    in 16 ms and lets nobody in.
    """
    with path.open("rb", buffering=0) as file:
        return b"".join(iter(partial(file.read, READ_BYTES), b""))


def read_while_replaced(directory: Path, read: Callable[[], Found]) -> Found:
    """Return what `read` finds in a directory that may be replaced meanwhile: all of the old one, or all of the new.

    Raises what `read` does of a directory that stays.
    """
    for _ in range(_READS_MAX):
        with _held(directory) as before:
            try:
                found = read()
            except (ModelPackageError, OSError):
                if _identity(directory) == before:
                    raise
            else:
                if _identity(directory) == before:
                    return found
    raise ModelPackageError(
        "it is replaced again and again", where=str(directory), next="see what writes there, then try again"
    )


@contextmanager
def _held(directory: Path) -> Iterator[tuple[int, ...]]:
    """Give the identity of a directory, and keep it from being another's meanwhile.

    Its number would be free once it is removed, and the times of most kernels are the same for some milliseconds.
    """
    try:
        descriptor = os.open(directory, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        yield ()
        return
    try:
        yield _identity(descriptor)
    finally:
        os.close(descriptor)


def _identity(directory: Path | int) -> tuple[int, ...]:
    """Return what is another for each directory that has had this name, or is open; nothing where there is none."""
    try:
        status = os.stat(directory)
    except OSError:
        return ()
    return status.st_dev, status.st_ino, status.st_ctime_ns
