"""Runs and their pages: how a materialisation's rows meet what a store holds, and why they never go back in time.

Each run of a view has a number, kept in the store, and a mark: the number and a random text. A store takes a run's page
only while its mark is the last, and looks in the same transaction or script that writes its rows. So a run that has
lost its lease in the middle, without knowing it, writes nothing from the moment at which the next run has begun.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from struct import Struct
from typing import Final, NamedTuple

from tailrace.errors import LeaseError
from tailrace.features.row_layout import EVENT_BYTE, HEADER_BYTES, WRITTEN_BYTE

_TIME: Final = Struct("<q")


@dataclass(frozen=True, slots=True)
class Run:
    """One materialisation of a view. mark: what the store holds as long as no later run has begun."""

    view: str
    number: int
    mark: bytes

    @property
    def key(self) -> bytes:
        """The key of the mark."""
        return run_key(self.view)


class PageRow(NamedTuple):
    """A row to be written. tombstone: the key under which the store notes that its entity is forgotten."""

    key: bytes
    tombstone: bytes
    row: bytes


class PageCounts(NamedTuple):
    """What became of a page's rows. older: than the store's, which stayed. forgotten: their entities are."""

    written: int = 0
    unchanged: int = 0
    older: int = 0
    forgotten: int = 0

    def plus(self, other: PageCounts) -> PageCounts:
        """Return the sum."""
        return PageCounts(*map(sum, zip(self, other, strict=True)))


def run_key(view: str) -> bytes:
    """Return the key of the mark of a view's last run; no entity's key begins so."""
    return b"tailrace:run:%b" % view.encode()


def next_run(view: str, last_mark: bytes | None) -> Run:
    """Return the run that follows the one whose mark the store holds."""
    number = int((last_mark or b"0").split()[0]) + 1
    return Run(view, number, b"%d %b" % (number, secrets.token_hex(8).encode()))


def lost_run(run: Run, mark: bytes | None, where: str) -> LeaseError:
    """Return the error of a run that has been followed by another, or whose store has been emptied."""
    what = f"run {run.number} of {run.view} may not write any more: "
    what += f"run {mark.split()[0].decode()} has begun since" if mark else "the store has been emptied since it began"
    return LeaseError(what, where=where, next="let the later run end, or run it again")


def write_page(
    get: Callable[[bytes], bytes | None],
    put: Callable[[bytes, bytes], object],
    rows: Iterable[PageRow],
    *,
    newer_only: bool,
) -> PageCounts:
    """Write the rows that may be written, through a store's own get and put, and count them."""
    written = unchanged = older = forgotten = 0
    for key, tombstone, row in rows:
        if get(tombstone) is not None:
            forgotten += 1
            continue
        stored = get(key)
        if stored is None or len(stored) < HEADER_BYTES:
            written += 1
            put(key, row)
        elif stored[:WRITTEN_BYTE] == row[:WRITTEN_BYTE] and stored[HEADER_BYTES:] == row[HEADER_BYTES:]:
            unchanged += 1
        elif newer_only and _TIME.unpack_from(stored, EVENT_BYTE) > _TIME.unpack_from(row, EVENT_BYTE):
            older += 1
        else:
            written += 1
            put(key, row)
    return PageCounts(written, unchanged, older, forgotten)
