"""The protocols between rooms: what a layer, a store or a model must look like to the others.

The five layers never import each other. They meet in a `Batch`, which every layer reads from and writes to, and in
the protocols of this file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum, IntFlag
from typing import Any, Final, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from tailrace.errors import OutOfTimeError, ServingError

EntityId = int | str
"""What identifies one entity: an int64 or a text."""


class Provenance(IntEnum):
    """Where a served feature value comes from, worst last."""

    FRESH = 0
    STALE = 1
    """Older than its view's `max_staleness`; served all the same."""
    DEFAULT = 2
    """The entity is unknown, or its row was refused: the view's declared default."""
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


class Model(Protocol):
    """A model that scores the rows of a batch in one call."""

    def predict(self, feeds: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Return scores: float, shape (rows,), or (rows, classes) for a classifier of more than two classes.

        feeds: an array for each input of the model's signature, of its dtype; (rows, features) or (rows, 1).
        """
        ...


class Call(msgspec.Struct, gc=False, eq=False):
    """One HTTP or gRPC call in flight.

    requests: one request, or a list of them where the caller sent an array. rows: how many rows they make.
    arrival_ns, deadline_ns: monotonic.
    answer: the whole answer's bytes, once there. origin: the transport's own (a connection); head: what the caller
    asked for beside the body. Made without the collector (gc=False): a call never outlives its connection.
    """

    origin: Any
    head: Any
    requests: Any
    arrival_ns: int
    deadline_ns: int
    rows: int = 1
    answer: bytes | None = None


class Transport(Protocol):
    """What brings calls to an engine and takes their answers away."""

    def deliver(self, batch: Batch) -> None:
        """Send the bodies of a finished batch. A caller that is gone is passed over."""
        ...

    def refuse(self, call: Call, error: ServingError | OutOfTimeError) -> None:
        """Send an error in place of an answer."""
        ...


_NO_SCORES: Final[NDArray[Any]] = np.empty(0)


class Batch(msgspec.Struct, eq=False):
    """The calls of one loop tick on their way through the five layers. Every layer fills its own part.

    calls: what it answers; requests: all their requests in order; offsets: where each call's requests begin (one more
    than calls), None where every call is one request. rows: what the model scores; row_request: the request of each
    row, row_bounds: where each request's rows begin, both None where a request is a row. view_rows: each view as it was
    read, one row an id; views: its columns, one value a row. marks_ns: its start, then the end of each layer.
    """

    calls: list[Call]
    started_ns: int
    deadline_ns: int
    marks_ns: list[int] = msgspec.field(default_factory=list)
    requests: Sequence[Any] = ()
    offsets: list[int] | None = None
    rows: int = 0
    row_request: NDArray[np.intp] | None = None
    row_bounds: NDArray[np.intp] | None = None
    request: Any = None
    view_rows: Sequence[Any] = ()
    views: list[Any] = msgspec.field(default_factory=list)
    on_demand: dict[str, NDArray[Any]] = msgspec.field(default_factory=dict)
    feeds: dict[str, NDArray[Any]] = msgspec.field(default_factory=dict)
    scores: NDArray[Any] = _NO_SCORES
    probabilities: NDArray[Any] | None = None
    decisions: NDArray[np.intp] | None = None
    reasons: list[tuple[str, ...]] | None = None
    degraded: NDArray[np.uint8] | None = None
    failed: NDArray[np.bool_] | None = None
    errors: dict[int, Any] = msgspec.field(default_factory=dict)
    bodies: list[bytes] = msgspec.field(default_factory=list)

    def rows_of_call(self, index: int) -> slice:
        """Return which rows belong to one call."""
        begin, end = (index, index + 1) if self.offsets is None else self.offsets[index : index + 2]
        if self.row_bounds is not None:
            begin, end = int(self.row_bounds[begin]), int(self.row_bounds[end])
        return slice(begin, end)
