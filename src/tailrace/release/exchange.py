"""One directory put in the place of another, so that a reader finds one of the two."""

from __future__ import annotations

import ctypes
import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2
"""Of the kernel's renameat2: two names change places."""


def replace_directory(draft: Path, out: Path) -> None:
    """Put `draft` in the place of `out`, in one step where the file system can: a reader finds one of the two, always.

    Elsewhere (NFS, say) what is there is moved aside first, or put back on an error.
    """
    if not out.exists():
        draft.rename(out)
    elif _exchange(draft, out):
        shutil.rmtree(draft, ignore_errors=True)
    else:
        aside = Path(tempfile.mkdtemp(prefix=f".{out.name}-old-", dir=out.parent))
        out.rename(aside / out.name)
        try:
            draft.rename(out)
        except OSError:
            (aside / out.name).rename(out)
            raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Let two paths change places in one step (renameat2(2)); return False where that cannot be."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    done: int = rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    return done == 0
