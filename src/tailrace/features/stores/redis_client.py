"""What a writer asks of Redis, whichever way it is set up; through redis-py, and never on the loop."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final, NamedTuple, Protocol

ROWS_PER_SCRIPT_MAX: Final = 250
"""So that a script keeps readers waiting no longer than a plain write of 1,000 rows: 2.4 ms, where that took 3.9."""

SCAN_KEYS: Final = 1_000
"""Looked at by one step of a scan, so that readers never wait long behind it."""

FAILOVER_S_MAX: Final = 30.0
"""How long a writer waits for another server to take the place of one that is gone."""

FAILOVER_LOOK_S: Final = 0.1
CONNECT_S_MAX: Final = 5.0
NODE_ANSWER_S_MAX: Final = 5.0
"""Of a server that another can take the place of."""


class ScriptCall(NamedTuple):
    """A script and what it is given. keys: of one group."""

    script: str
    keys: Sequence[bytes]
    arguments: Sequence[Any]


class RedisClient(Protocol):
    """What a writer asks of Redis. Every method raises StoreError where it cannot be asked, or refuses.

    A group is of keys that one command may touch together: on a cluster those of one slot.
    """

    where: str

    def ask(self, *command: Any) -> Any:
        """Return what Redis answers to a command, whose second word is its key."""
        ...

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the values of some keys, in order."""
        ...

    def evaluate(self, calls: Sequence[ScriptCall]) -> list[Any]:
        """Return what some scripts give, each at once by itself."""
        ...

    def groups(self, keys: Sequence[bytes]) -> list[list[int]]:
        """Return the places of some keys by group, each of a size that keeps no reader waiting long."""
        ...

    def exchange(self, puts: Collection[tuple[bytes, bytes]], removes: Collection[bytes]) -> int:
        """Write and remove keys, those of a group at once; return how many of the removed were there."""
        ...

    def marks(self, key: bytes) -> Sequence[bytes]:
        """Return under which keys a run's mark is kept beside its own: one in each group; none where all are one."""
        ...

    def mark_beside(self, key: bytes, row: bytes) -> bytes:
        """Return the key of the mark that stands in a row's group."""
        ...

    def scan(self, pattern: bytes) -> Iterator[bytes]:
        """Yield the keys of a pattern; one may come twice."""
        ...

    def close(self) -> None:
        """Let go of the connections."""
        ...


def chunks(places: list[int]) -> list[list[int]]:
    """Return some places, as many at a time as a script may have."""
    return [places[begin : begin + ROWS_PER_SCRIPT_MAX] for begin in range(0, len(places), ROWS_PER_SCRIPT_MAX)]
