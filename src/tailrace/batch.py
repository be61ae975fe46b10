"""What the five layers meet in: calls, the batch that takes them through, and its columns.

The layers never import each other. Each reads from a `Batch` what those before it have left, and leaves its own part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import IntEnum, IntFlag
from typing import Any, ClassVar, Final, NamedTuple, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from tailrace.errors import ServingError


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
    EVENT_LOST = 32
    """The request is an event, and was refused as one, or is not known to be counted."""


JSON: Final = b"application/json"
"""The content type of answers to callers without a codec of their own."""


class Encoder(Protocol):
    """Writes answers. content_type: of their bytes."""

    content_type: bytes

    def encode(self, value: Any) -> bytes:
        """Return the bytes of one answer, of one request or of a list of them."""
        ...

    def encode_each(self, values: Sequence[Any]) -> list[bytes]:
        """Return the bytes of each answer."""
        ...


class Codec(Encoder, Protocol):
    """How a caller writes requests and reads answers.

    decode: gives, from the bytes of a body, a request, a list of them, or the `ServingError` that refuses it.
    request_type: of the requests that come out.
    """

    decode: Callable[[bytes], Any]
    request_type: type


class Transport(Protocol):
    """What brings calls to an engine and takes their answers away."""

    def deliver(self, batch: Batch, places: Sequence[int]) -> None:
        """Send the answers of the batch's calls at these places, all of which are of this transport.

        A caller that is gone is passed over.
        """
        ...

    def refuse(self, call: Call, error: ServingError) -> None:
        """Send an error in place of an answer."""
        ...


class Trace(NamedTuple):
    """The trace that a call is part of: the two headers of W3C Trace Context, as they came. state: empty for none."""

    parent: bytes
    state: bytes

    @property
    def id(self) -> str:
        """The trace's id: 32 hexadecimal digits."""
        return self.parent[3:35].decode("ascii")


Source = tuple[bytes, bytes, bytes]
"""Where a call comes from, each empty where it is not known: its id, which its caller or the server has given it; the
traceparent of W3C Trace Context, as it came; and its caller's address."""
UNKNOWN: Final[Source] = (b"", b"", b"")
"""Of a call that tells nothing."""


class Call(msgspec.Struct, gc=False, eq=False):
    """One call in flight. A transport makes it, of a class of its own that knows where the answer goes.

    codec: of its caller, None for the pipeline's usual one. requests: one request, or a list of them where the caller
    sent an array. rows: how many they are counted for, at
    least one: an empty array costs too. arrival_ns: the earliest time at which it may have arrived. arrival_ns,
    deadline_ns: monotonic. Made without the collector (gc=False): a call never outlives its connection.
    """

    transport: Transport
    codec: Encoder | None
    requests: Any
    arrival_ns: int
    deadline_ns: int
    rows: int

    @property
    def trace(self) -> Trace | None:
        """The trace that it is part of; None where its caller tells none, or its transport knows of none."""
        return None

    @property
    def route(self) -> str:
        """What it asks for: "POST /v1/pipelines/fraud/predict", or a gRPC method; empty where nobody waits for it."""
        return ""

    @property
    def callers(self) -> bytes:
        """The scope of its caller: those of another share no answers. Empty for one that need not say who it is."""
        return b""

    @property
    def trace_state(self) -> bytes:
        """What vendors add to its trace, as `Trace.state`; empty for none."""
        trace = self.trace
        return b"" if trace is None else trace.state

    def source(self) -> Source:
        """Return where it comes from; asked once its answer is there."""
        trace = self.trace
        return UNKNOWN if trace is None else (b"", trace.parent, b"")

    def identify(self) -> str:
        """Return its id, given to it now where it would have one only with its answer; empty where it never has."""
        return self.origin().get("request_id", "")

    def origin(self) -> dict[str, str]:
        """Return what is known of where it comes from, for a sample or a line of the log; empty for nothing.

        request_id: as the caller tells it. trace: its id. client: its caller's address.
        """
        request_id, parent, client = self.source()
        found = {"request_id": request_id, "trace": parent[3:35], "client": client}
        return {name: text.decode("ascii", "backslashreplace") for name, text in found.items() if text}


class RemoteAsked(NamedTuple):
    """What a batch has asked of a remote model. began_ns, ended_ns: monotonic. is_whole: whether it scored all rows."""

    model: str
    began_ns: int
    ended_ns: int
    is_whole: bool


_NO_SCORES: Final[NDArray[Any]] = np.empty(0)
_NO_SCORES.flags.writeable = False


class Batch(msgspec.Struct, eq=False):
    """The calls of one loop tick on their way through the five layers. Every layer fills its own part.

    calls: what it answers; suspends: whether it may wait; tell_scored: is told of rows that are scored before all
    are, where somebody wants to know, and rows_scored is how many it was told of. requests: all their requests in
    order; offsets: where each call's requests begin (one more than calls), None where every call is one request.
    rows: what the model scores; row_request: the request of each row, row_bounds: where each request's rows begin,
    both None where a request is a row. request: its columns. view_rows: each view as it was read, one row an id;
    views: its columns, one value a row. scores: of the last stage. branches: which way each row went at each stage
    that has several, by its name, -1 for rows that did not come there; or None. explanations: what a row's score is
    made of, unexplained: why that is not told; None where nobody asks. best_rows: what requests are answered with, in
    order, and where each request's begin; None for all as they are. responses: one a request. bodies: one a call, empty
    for one with an error; content_type: of all bodies, empty where they differ. errors: by the call's place; what their
    bytes are is the transport's. marks_ns: its start, then the end of each layer. coalesced: of calls that were not
    computed for, how they came to another's answer, "in_flight" or "kept"; such a batch has no columns. remote: what it
    has asked of remote models, where traces want to know it, else None. status: HTTP's.
    """

    status: ClassVar[int] = 200
    calls: Sequence[Call]
    started_ns: int
    deadline_ns: int
    suspends: bool = False
    marks_ns: list[int] = msgspec.field(default_factory=list)
    tell_scored: Callable[[int], None] | None = None
    rows_scored: int = 0
    requests: Sequence[Any] = ()
    offsets: list[int] | None = None
    rows: int = 0
    row_request: NDArray[np.intp] | None = None
    row_bounds: NDArray[np.intp] | None = None
    request: Any = None
    view_rows: Sequence[Any] = ()
    views: list[Any] = msgspec.field(default_factory=list)
    on_demand: dict[str, NDArray[Any]] = msgspec.field(default_factory=dict)
    scores: NDArray[Any] = _NO_SCORES
    branches: dict[str, NDArray[np.intp]] | None = None
    probabilities: NDArray[Any] | None = None
    explanations: list[dict[str, float] | None] | None = None
    unexplained: list[str] | None = None
    best_rows: tuple[NDArray[np.intp], list[int]] | None = None
    decisions: NDArray[np.intp] | None = None
    reasons: list[tuple[str, ...]] | None = None
    degraded: NDArray[np.uint8] | None = None
    failed: NDArray[np.bool_] | None = None
    errors: dict[int, ServingError] = msgspec.field(default_factory=dict)
    responses: list[Any] = msgspec.field(default_factory=list)
    bodies: list[bytes] = msgspec.field(default_factory=list)
    content_type: bytes = JSON
    coalesced: str = ""
    remote: list[RemoteAsked] | None = None

    def rows_of_call(self, index: int) -> slice:
        """Return which rows belong to one call."""
        begin, end = (index, index + 1) if self.offsets is None else self.offsets[index : index + 2]
        if self.row_bounds is not None:
            begin, end = int(self.row_bounds[begin]), int(self.row_bounds[end])
        return slice(begin, end)

    def add_degraded(self, reasons: NDArray[np.uint8]) -> None:
        """Note why rows are degraded, beside what is noted of them already; uint8 `Degraded` bits, (rows,)."""
        self.degraded = reasons if self.degraded is None else self.degraded | reasons


class LazyColumn:
    """A column made when first asked for; `functools.cached_property` without its lock, which costs as much again."""

    __slots__ = ("_make", "_name")

    def __init__(self, name: str, make: Callable[[Any], NDArray[Any]]) -> None:
        self._name = name
        self._make = make

    def __get__(self, columns: Any, owner: type | None = None) -> NDArray[Any]:
        values = columns.__dict__[self._name] = self._make(columns)
        values.flags.writeable = False  # what one function changed in place, all others would read
        return values
