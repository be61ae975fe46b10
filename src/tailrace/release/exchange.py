"""A directory written whole or not at all, and put in the place of another so that a reader finds one of the two."""

from __future__ import annotations

import ctypes
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tailrace.errors import ModelPackageError, SetupError
from tailrace.inference.manifest import MANIFEST_FILE
from tailrace.release.flush import flush, flush_directory

_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2
"""Of the kernel's renameat2: two names change places."""


_MODE: Final = 0o755


def check_place(out: Path, *, overwrite: bool, error: type[SetupError] = ModelPackageError) -> None:
    """Raise an error for a directory that may not be replaced, before work is spent on what goes there.

    With `overwrite` a model directory may be, and an empty one: nobody means to lose what else a directory holds.
    """
    if out.exists() and not overwrite:
        raise error("the directory exists", where=str(out), next="give --overwrite, or another --out")
    if out.exists() and not out.is_dir():
        raise error("it is no directory", where=str(out), next="give another --out")
    if out.exists() and any(out.iterdir()) and not (out / MANIFEST_FILE).is_file():
        raise error(
            f"it is no model directory, and would be removed with all in it: it has no {MANIFEST_FILE}",
            where=str(out),
            next=f"give a directory in it, such as --out {out / 'NAME'}, or remove it yourself",
        )


@contextmanager
def written(place: Path) -> Iterator[None]:
    """Tell of a place that cannot be written: a full disk, or one that is forbidden, is no fault of the model."""
    try:
        yield
    except OSError as error:
        raise ModelPackageError(
            f"it cannot be written: {error.strerror or error}",
            where=os.fspath(error.filename or place),
            next="see that the disk has room, or name another directory",
        ) from error


@contextmanager
def drafted(out: Path) -> Iterator[Path]:
    """Give an empty directory beside `out`, which is put in its place once the block ends: on the disk, and whole.

    Where the block raises, `out` is as it was, and nothing is left of the draft. A link stays one: what it leads to is
    replaced.
    """
    out = out.resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        draft.chmod(_MODE)  # others may serve it
        yield draft
        flush_directory(draft)
        replace_directory(draft, out)
        flush(out.parent)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def replace_directory(draft: Path, out: Path) -> None:
    """Put `draft` in the place of `out`, in one step where the file system can: a reader finds one of the two, always.

    Elsewhere (NFS, say) what is there is moved aside first, or put back on an error.
    """
    if not out.exists():
        draft.rename(out)
    elif _exchange(draft, out):
        shutil.rmtree(draft, ignore_errors=True)
    else:
        _replace_in_steps(draft, out)


def _replace_in_steps(draft: Path, out: Path) -> None:
    """Move what is there aside, `draft` into its place, and remove what was there only then."""
    aside = Path(tempfile.mkdtemp(prefix=f".{out.name}-old-", dir=out.parent))
    kept = aside / out.name
    try:
        out.rename(kept)
        draft.rename(out)
    except OSError:
        if kept.exists():
            kept.rename(out)  # where this fails too it stays aside, which is the only copy then
        aside.rmdir()
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Let two paths change places in one step (renameat2(2)); return False where that cannot be."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    done: int = rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    return done == 0
