"""The lines of a draft of the log, up to where it is cut, or damaged."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa


def read_draft(path: Path) -> Iterator[pa.RecordBatch]:
    """Give the lines of a draft up to where it is cut, or damaged. Raises OSError where the disk cannot be read."""
    with path.open("rb") as file:
        yield from DraftLines(file)


class DraftLines:
    """The lines of a stream. is_checked: unless their values are known to be what they were written as.

    is_whole: whether they were all given. What its end is cut in the midst of, or damaged, is taken for one that was
    written in part, and no line yet.
    """

    def __init__(self, file: BinaryIO, *, is_checked: bool = True) -> None:
        self._file = file
        self._is_checked = is_checked
        self.is_whole = True

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        try:
            with pa.ipc.open_stream(self._file) as reader:
                for batch in reader:
                    if self._is_checked and not is_valid(batch):
                        self.is_whole = False
                        return
                    yield batch
        except OSError as error:
            if error.errno is not None:  # else Arrow tells so that a file ends too soon
                raise
        except (pa.ArrowException, EOFError):
            pass
        self.is_whole = self._file.tell() == os.fstat(self._file.fileno()).st_size


def is_valid(batch: pa.RecordBatch) -> bool:
    """Return whether all values can be read: lengths that are damaged would end the process that follows them."""
    try:
        batch.validate(full=True)
    except (pa.ArrowException, UnicodeDecodeError):
        return False
    return True
