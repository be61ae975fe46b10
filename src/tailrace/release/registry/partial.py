"""Objects that are not whole yet: each has its writer's name, so that what a dead one left is known."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Final

from tailrace.release.registry.holder import own_name
from tailrace.release.registry.storage import Storage

PARTIAL: Final = "partial"
_SEPARATOR: Final = "."
_counter: Final = itertools.count()


def partial_key() -> str:
    """Return a key that no other writer has, in this process or another."""
    return f"{PARTIAL}/{own_name()}{_SEPARATOR}{next(_counter)}"


def sweep(storage: Storage, is_dead: Callable[[str, float], bool]) -> int:
    """Remove what writers left half-written; return how many objects.

    is_dead: whether the writer of that name, who last wrote at that time (`Found.modified_s`), is gone.
    """
    removed = 0
    for found in storage.find(f"{PARTIAL}/"):
        writer = found.key.removeprefix(f"{PARTIAL}/").rpartition(_SEPARATOR)[0]
        if is_dead(writer, found.modified_s):
            storage.delete(found.key)
            removed += 1
    return removed
