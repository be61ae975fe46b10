"""What a store must look like: one batched read while serving, and a writer for those who fill it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol


class OnlineStore(Protocol):
    """Reads packed rows while serving. One `fetch` a batch, for all of its entities and views."""

    @property
    def network(self) -> bool:
        """Whether `fetch` may suspend; an embedded store's never does."""
        ...

    async def fetch(self, keys: Sequence[bytes], deadline_ns: int) -> list[bytes | None]:
        """Return the value of each key, in order; None where there is none.

        deadline_ns: monotonic; a store that may wait gives up there. An embedded store answers without suspending.
        Raises TimeoutError when late, ConnectionError or StoreError when it cannot answer.
        """
        ...

    async def open(self) -> None:
        """Connect, where it is not connected already: several pipelines may share a store.

        A network store that is down is not an error: it keeps trying.
        """
        ...

    def close(self) -> None:
        """Let go of files and sockets."""
        ...


class StoreWriter(Protocol):
    """Writes packed rows, offline."""

    def put(self, rows: Iterable[tuple[bytes, bytes]]) -> None:
        """Write key and value pairs. After an error the call may be made again: the same rows, the same keys.

        LMDB writes all of a call's or none, Redis a thousand at a time.
        """
        ...

    def get(self, key: bytes) -> bytes | None:
        """Return one value."""
        ...

    def delete(self, key: bytes) -> None:
        """Remove one key, if it is there."""
        ...

    def close(self) -> None:
        """Flush and let go."""
        ...
