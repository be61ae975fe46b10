"""A worker's note of what it scores just now: a request that ends the process is found by it, and not tried for ever.

    {"018f…": 0, "018f…": 1}        by id, how many processes have ended while they scored it

It is written before a group is scored and emptied after, into the page cache: it is for a process that ends, not for a
power failure.
What a process finds there when it starts was in hand when the one before ended: each of it is scored alone from then
on, so that only what ends processes is counted on.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

ENDS_MAX: Final = 3
"""Processes that a request may end, or not outlive, before it is answered with an error."""
_Tries = dict[str, int]


class HandNote:
    """The note of one slot, a file beside the journal."""

    def __init__(self, directory: str | Path, slot: int) -> None:
        self._path = Path(directory) / f"in-hand.{slot}"

    def read(self) -> _Tries:
        """Return what the process before had in hand, with one more end for each."""
        try:
            found = msgspec.json.decode(self._path.read_bytes(), type=_Tries)
        except (OSError, msgspec.DecodeError):
            return {}
        return {entry_id: ends + 1 for entry_id, ends in found.items()}

    def write(self, ends: Mapping[str, int]) -> None:
        """Note what is in hand from now on. Raises OSError."""
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            content = msgspec.json.encode(ends)
            os.pwrite(descriptor, content, 0)  # in one piece: a process that is killed leaves the old or the new
            os.ftruncate(descriptor, len(content))
        finally:
            os.close(descriptor)
