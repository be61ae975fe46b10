"""How far a materialisation has come: kept in the store itself, in the same write as the rows that it counts."""

from __future__ import annotations

import glob
import os
import re
from hashlib import sha256
from pathlib import Path

import msgspec

from tailrace.features.sources import SQL
from tailrace.features.stores.protocol import StoreWriter
from tailrace.features.views import ViewSpec


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """One view's last run. source: the fingerprint of what it read. last_key: of the last entity written.

    now_ns: when the run began; one that goes on with it keeps this. done: nothing is left to write.
    """

    source: str
    last_key: int | str
    written: int
    now_ns: int
    done: bool


def progress_key(view: str) -> bytes:
    """Return the key that a view's progress is kept under; no entity's key begins so."""
    return b"tailrace:materialize:%b" % view.encode()


def read_progress(writer: StoreWriter, view: str, source: str) -> Progress | None:
    """Return the progress of a run that was interrupted and read the same source; None to start from the beginning."""
    stored = writer.get(progress_key(view))
    if stored is None:
        return None
    try:
        progress = msgspec.json.decode(stored, type=Progress)
    except msgspec.DecodeError:
        return None
    return progress if progress.source == source and not progress.done else None


def progress_row(view: str, progress: Progress) -> tuple[bytes, bytes]:
    """Return the row that notes a view's progress."""
    return progress_key(view), msgspec.json.encode(progress)


def fingerprint(spec: ViewSpec, base_dir: Path, schema_id: int, key_type: str) -> str:
    """Return a text that changes with the source, its files' sizes and times, and the view's entity and columns.

    Of a SQL file, the files that it names in quotes count too. What it reads from elsewhere is not known.
    """
    source = spec.source
    digest = sha256(f"{source!r} {spec.entity!r} {schema_id} {key_type}".encode())
    patterns = [source.path]
    if isinstance(source, SQL):
        path = base_dir / source.path
        text = path.read_text("utf-8", "replace") if path.is_file() else ""
        # What is between any two quotes: an apostrophe in a comment must not turn names and gaps about.
        patterns += filter(None, re.split("['\"]", text))
    for pattern in patterns:
        for found in sorted(glob.glob(str(base_dir / pattern), recursive=True)):
            status = os.stat(found)
            digest.update(f"{found} {status.st_size} {status.st_mtime_ns}".encode())
    return digest.hexdigest()
