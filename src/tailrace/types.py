"""The protocols between rooms: what a layer, a store or a model must look like to the others.

The five layers never import each other. They meet in a `Batch`, which every layer reads from and writes to, and in
the protocols of this file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum, IntFlag
from typing import Any, Protocol

from numpy.typing import NDArray

EntityId = int | str
"""What identifies one entity: an int64 or a text."""


class Provenance(IntEnum):
    """Where a served feature value comes from, worst last."""

    FRESH = 0
    STALE = 1
    """Older than its view's `max_staleness`; served all the same."""
    DEFAULT = 2
    """The entity is unknown, or the value is null: the view's declared default."""
    TIMEOUT = 3
    """The store was late or gone: the view's declared default."""


class Degraded(IntFlag):
    """Why an answer is degraded. One row may carry several reasons."""

    STALE_FEATURES = 1
    STORE_TIMEOUT = 2
    STORE_ERROR = 4
    MODEL_ERROR = 8
    MODEL_TIMEOUT = 16


class OnlineStore(Protocol):
    """Reads packed rows while serving. One `fetch` a batch, for all of its entities and views."""

    async def fetch(self, keys: Sequence[bytes], deadline_ns: int) -> list[bytes | None]:
        """Return the value of each key, in order; None where there is none.

        deadline_ns: monotonic; a store that may wait gives up there. An embedded store answers without suspending.
        Raises TimeoutError when late, ConnectionError or StoreError when it cannot answer.
        """
        ...

    async def open(self) -> None:
        """Connect. A network store that is down is not an error: it keeps trying."""
        ...

    def close(self) -> None:
        """Let go of files and sockets."""
        ...


class StoreWriter(Protocol):
    """Writes packed rows, offline."""

    def put(self, rows: Iterable[tuple[bytes, bytes]]) -> None:
        """Write key and value pairs, all of them or, on an error, none of this call's."""
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


class Model(Protocol):
    """A model that scores the rows of a batch in one call."""

    def predict(self, feeds: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Return scores: float, shape (rows,), or (rows, classes) for a classifier of more than two classes.

        feeds: an array for each input of the model's signature, of its dtype; (rows, features) or (rows, 1).
        """
        ...


class Recorder(Protocol):
    """Counts what happens to batches. One call a batch, never one a request."""

    def record(self, batch: Any) -> None:
        """Take one finished batch."""
        ...
