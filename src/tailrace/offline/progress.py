"""How far a materialisation has come: kept in the store itself, never before the rows that it counts."""

from __future__ import annotations

import glob
import os
import re
import stat
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path

import msgspec

from tailrace.errors import SourceError
from tailrace.features.batch_views import BatchViewSpec
from tailrace.features.sources import SQL, Engine

FileStates = Mapping[str, tuple[int, int]]
"""The files of a source: their sizes and times."""


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """One view's last run. source: the fingerprint of what it read. last_key: of the last entity written.

    began_ns: when the run began, since the epoch; one that resumes it keeps this. done: nothing is left to write.
    is_useful: the store has a row of the source, written or unchanged; so far it had newer ones else.
    """

    source: str
    last_key: int | str | None
    written: int
    began_ns: int
    done: bool
    is_useful: bool = False


def progress_key(view: str) -> bytes:
    """Return the key that a view's progress is kept under; no entity's key begins so."""
    return b"tailrace:progress:%b" % view.encode()


def read_progress(
    get: Callable[[bytes], bytes | None], view: str, source: str, now_ns: int, expires_ns: int
) -> Progress | None:
    """Return the progress of a run that was interrupted and read the same source; None to start from the beginning.

    expires_ns: how old it may be, for a query may read what no fingerprint shows. A run of the future is not
    resumed either: the clock was set back.
    """
    stored = get(progress_key(view))
    if stored is None:
        return None
    try:
        progress = msgspec.json.decode(stored, type=Progress)
    except msgspec.DecodeError:
        return None
    is_fresh = 0 <= now_ns - progress.began_ns <= expires_ns
    return progress if progress.source == source and is_fresh and not progress.done else None


def progress_row(view: str, progress: Progress) -> tuple[bytes, bytes]:
    """Return the row that notes a view's progress."""
    return progress_key(view), msgspec.json.encode(progress)


def source_files(spec: BatchViewSpec, base_dir: Path) -> FileStates:
    """Return the state of the files that a source reads. Of a SQL file, those that it names in quotes count too.

    What a query reads from elsewhere is not known: of one that a Postgres runs, nothing. Raises SourceError for a SQL
    file that cannot be read.
    """
    source = spec.source
    patterns = [source.path]
    if isinstance(source, SQL) and source.engine is not Engine.POSTGRES:
        patterns += _quoted(base_dir / source.path, spec.name)
    states = {}
    for pattern in patterns:
        for found in sorted(glob.glob(str(base_dir / pattern), recursive=True)):
            state = _state(found)
            if state is not None:
                states[found] = state
    return states


def _quoted(path: Path, view: str) -> list[str]:
    """Return what stands between any two quotes of a SQL file.

    Any two: an apostrophe in a comment must not turn names and gaps about.
    """
    try:
        text = path.read_text("utf-8", "replace") if path.is_file() else ""
    except OSError as error:
        raise SourceError(f"cannot be read: {error.strerror}", where=f"features.{view}.source ({path})",
                          next="see that the file is there and may be read") from None  # fmt: skip
    return [each for each in re.split("['\"]", text) if each]


def _state(path: str) -> tuple[int, int] | None:
    """Return the size and time of a file; None for a folder, and for what is absent, such as the target of a link."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return (status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None


def fingerprint(
    spec: BatchViewSpec, files: FileStates, schema_id: int, key_type: str, pipelines: tuple[str, ...]
) -> str:
    """Return a text that changes with the source, its files, the view's entity and columns, and whose it is."""
    parts = (spec.source, spec.entity, schema_id, key_type, pipelines, dict(files))
    digest = sha256(repr(parts).encode())
    return digest.hexdigest()


def check_unchanged(spec: BatchViewSpec, base_dir: Path, before: FileStates) -> None:
    """Raise SourceError where a file has changed since: a row may have been read before it was whole.

    Files that have come since are left to the next run.
    """
    after = source_files(spec, base_dir)
    for path, state in before.items():
        if after.get(path) != state:
            raise SourceError("changed while it was read, so nothing of it is written", where=path,
                              next="write it under another name, then rename it; or run again")  # fmt: skip
