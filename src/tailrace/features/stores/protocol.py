"""What a store must look like: one batched read while serving, and a writer for those who fill it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from typing import Protocol, runtime_checkable

from tailrace.features.stores.lease import Lease
from tailrace.features.stores.runs import PageCounts, PageRow, Run
from tailrace.features.view_spec import ViewCodec, ViewSpec

Fetch = Callable[[Sequence[bytes], int], Awaitable[Sequence[bytes | None]]]
"""Reads keys by a deadline, as `OnlineStore.fetch` does."""


class OnlineStore(Protocol):
    """Reads packed rows while serving. One `fetch` a batch and hop, for all of its entities and views."""

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


@runtime_checkable
class ForeignStore(OnlineStore, Protocol):
    """A store that another system fills, in a format of its own: so it says itself how a view's values are read."""

    def codec(self, spec: ViewSpec) -> ViewCodec:
        """Return the codec of a view in this store. Raises StoreError where the store cannot hold it."""
        ...


def codec_of(store: OnlineStore, spec: ViewSpec) -> ViewCodec:
    """Return the codec of a view in a store. Raises StoreError where the store cannot hold it."""
    return store.codec(spec) if isinstance(store, ForeignStore) else spec.codec()


class Changes(Protocol):
    """What an update makes of the values under some keys.

    keys: no key stands twice. tombstones: for each key, the one under which the store notes that its entity is
    forgotten. A key and its tombstone have the same text between their first braces, as `KeyFormat` makes them: a
    cluster keeps them together.
    """

    @property
    def keys(self) -> Sequence[bytes]:
        """Whose values are changed."""
        ...

    @property
    def tombstones(self) -> Sequence[bytes]:
        """For each key."""
        ...

    def values(
        self, places: Sequence[int], before: Sequence[bytes | None], forgotten: Sequence[bool]
    ) -> Sequence[bytes | None]:
        """Return the new values of the keys at some places, in ascending order; None leaves one as it is.

        before: what the store holds. forgotten: whether there is a tombstone. It may be called more than once. A new
        value differs from the one before in its first 48 bytes, or in its length: a store may compare no more.
        """
        ...


class StoreWriter(Protocol):
    """Writes packed rows, offline. Every method raises StoreError where the store cannot be written.

    A materialisation takes the view's lease, begins a run, and writes and removes under that run alone. What is called
    at once is so, on a cluster, for the keys with the same text between their first braces: those of one entity.
    """

    def lease(self, view: str) -> Lease:
        """Return the lease of a view. Raises LeaseError where another run holds it."""
        ...

    def begin_run(self, view: str) -> Run:
        """Return a new run of a view, numbered in the store; what earlier runs write from now on is refused."""
        ...

    def write(
        self, run: Run, rows: Sequence[PageRow], notes: Sequence[tuple[bytes, bytes]] = (), *, newer_only: bool = False
    ) -> PageCounts:
        """Write a run's rows, then its notes, key and value pairs; leave out rows of entities that are forgotten.

        newer_only: leave out a row whose event time is before the stored one's, too. LMDB and Redis write some hundred
        rows at a time, a cluster those of a slot; each row is whole, and the call may be made again.
        Raises LeaseError, and writes nothing more, once a later run has begun.
        """
        ...

    def remove(self, run: Run, keys: Sequence[bytes]) -> int:
        """Remove keys for a run; return how many were there. Raises as `write` does."""
        ...

    def scan(self, begin: bytes, end: bytes) -> Iterator[bytes]:
        """Yield the keys that begin and end so. Those that come or go meanwhile may be among them or not."""
        ...

    def exchange(self, puts: Collection[tuple[bytes, bytes]], removes: Collection[bytes]) -> int:
        """Write key and value pairs as they are, under no run, and remove keys: all at once.

        Return how many of the removed keys were there. After an error the call may be made again.
        """
        ...

    def update(self, changes: Changes, notes: Sequence[tuple[bytes, bytes]] = ()) -> None:
        """Change values by what they are: each is read and written as if nobody else wrote meanwhile.

        notes: key and value pairs; read when `changes.values` has given its values, so that it may fill them in.
        LMDB writes all values and the notes, or none. A network store writes each value at once, and the notes when
        all are written; it may ask for the new value of a key again, where another has changed it meanwhile. An error
        may then leave some values changed, and no note: a change that comes again must come to the same.
        """
        ...

    def get(self, key: bytes) -> bytes | None:
        """Return one value."""
        ...

    def close(self) -> None:
        """Flush and let go."""
        ...
