"""What was predicted, as columns: what the observer makes of a worker's frames, for the log and for drift."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import chain, compress
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tailrace.batch import RemoteAsked


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class CallFacts:
    """What spans are made of, beside what is known of requests.

    request_call: the call of each request, int64 (requests,). Of each call. batch: which one it was in, int64 (calls,).
    arrivals_ns: monotonic, int64 (calls,). routes: what it asked for; see `Call.route`. parents, states: the headers of
    W3C Trace Context as they came, empty for none.

    remote: what batches asked of remote models, since the epoch, by batch.
    """

    request_call: NDArray[np.int64]
    batch: NDArray[np.int64]
    arrivals_ns: NDArray[np.int64]
    routes: list[str]
    parents: list[bytes]
    states: list[bytes]
    remote: dict[int, list[RemoteAsked]] = field(default_factory=dict)


class LogChoice(msgspec.Struct, frozen=True):
    """What of a pipeline's requests is logged; see `tr.Log`. slow_ns: what takes longer is slow."""

    sample: float
    keep: tuple[str, ...]
    slow_ns: int


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Predictions:
    """Some answered requests of one pipeline and release, about in their order. Nobody may write to its arrays.

    A request makes a row, or, with a list-valued entity key, many: `row_request` says whose each row is, int64 (rows,),
    and is None where a request is a row. It makes none where a fault broke its batch off, or where another call's
    computation has answered it: such requests are the last ones.

    Of each request. requests: its JSON as it was decoded, without what is redacted. request_ids, traces, clients: ""
    where not known. errors: the kind of error that it was answered with, "" for none. answered_ns: since the epoch,
    int64 (requests,). waits_ns, whole_ns: from its arrival to the start of its batch, and to its answer, int64
    (requests,). layers_ns: of its batch in each of the five layers, int64 (requests, 5).

    Of each row. features: the model's inputs by name, in their order, as they were served: numbers (rows,), vectors
    (rows, width), texts of dtype object; one that is redacted is not there. provenance: uint8 of `Provenance` by view.
    event_ns: of the stored row that a batch view was served from, since the epoch, int64 by view; 0 where there is
    none. scores: (rows,), or (rows, width) of a model with several outputs. decisions: places among `labels`; None
    where the pipeline decides nothing. reasons: the rules that spoke; None where none did. degraded: a set of
    `Degraded`, uint8. failed: whether the row has no score, bool. branches: the way it went at each stage that has
    several, by name; None where it did not come there.

    Of each request, where another's computation has answered one; else None. coalesced: how it came to it, "in_flight"
    or "kept", empty for others. answers: the JSON that it was answered.

    choice: what of these is logged; None for all. shares: of what is logged, the share that each request stands for,
    float32 (requests,); None where all are logged. calls: None unless traces are exported.
    """

    pipeline: str
    release: str
    slot: int
    requests: list[bytes]
    request_ids: list[str]
    traces: list[str]
    clients: list[str]
    errors: list[str]
    answered_ns: NDArray[np.int64]
    waits_ns: NDArray[np.int64]
    whole_ns: NDArray[np.int64]
    layers_ns: NDArray[np.int64]
    row_request: NDArray[np.int64] | None
    features: dict[str, NDArray[Any]]
    provenance: dict[str, NDArray[np.uint8]]
    event_ns: dict[str, NDArray[np.int64]]
    scores: NDArray[Any]
    decisions: NDArray[np.int64] | None
    labels: tuple[str, ...]
    reasons: list[tuple[str, ...]] | None
    degraded: NDArray[np.uint8]
    failed: NDArray[np.bool_]
    branches: dict[str, list[str | None]] = field(default_factory=dict)
    coalesced: list[str] | None = None
    answers: list[bytes] | None = None
    choice: LogChoice | None = None
    shares: NDArray[np.float32] | None = None
    calls: CallFacts | None = None

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self.scores)

    @property
    def places(self) -> NDArray[np.int64]:
        """The request of each row, int64 (rows,)."""
        return np.arange(self.rows, dtype=np.int64) if self.row_request is None else self.row_request

    @property
    def size_bytes(self) -> int:
        """How much memory they take, about: what was sent, and the columns of it."""
        columns = [*self.features.values(), *self.provenance.values(), *self.event_ns.values(), self.scores]
        texts = [*self.requests, *(self.answers or ()), *chain.from_iterable(map(_texts_of, columns))]
        return sum(map(len, texts)) + sum(column.nbytes for column in columns)

    def where(self, chosen: NDArray[np.bool_]) -> Predictions:
        """Return some of the requests, with their rows. chosen: bool (requests,). `calls` are left out."""
        rows, numbers = chosen[self.places], np.cumsum(chosen) - 1
        flags, row_flags = chosen.tolist(), rows.tolist()
        found: dict[str, Any] = {name: getattr(self, name)[chosen] for name in _TIMES}
        for name in _TEXTS:
            if getattr(self, name) is not None:
                found[name] = list(compress(getattr(self, name), flags))
        for name in ("features", "provenance", "event_ns"):
            found[name] = {key: column[rows] for key, column in getattr(self, name).items()}
        return replace(
            self,
            **found,
            row_request=None if self.row_request is None else numbers[self.row_request[rows]],
            scores=self.scores[rows],
            decisions=None if self.decisions is None else self.decisions[rows],
            reasons=None if self.reasons is None else list(compress(self.reasons, row_flags)),
            degraded=self.degraded[rows],
            failed=self.failed[rows],
            branches={name: list(compress(labels, row_flags)) for name, labels in self.branches.items()},
            calls=None,
        )


_TEXTS = ("requests", "request_ids", "traces", "clients", "errors", "coalesced", "answers")
_TIMES = ("answered_ns", "waits_ns", "whole_ns", "layers_ns")


def _texts_of(column: NDArray[Any]) -> list[str]:
    """Return the texts of a column; none of one of numbers."""
    return [value for value in column.tolist() if isinstance(value, str)] if column.dtype.kind == "O" else []
