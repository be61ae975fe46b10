"""The frames that a worker writes for the observer: many batches of one pipeline in one message, as few arrays.

A frame says what it needs to be read: it carries its schema, since any frame before it may be overwritten, and two
releases may write side by side. Arrays are bytes in the machine's own order: no frame leaves the machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from tailrace.batch import RemoteAsked
from tailrace.deadline import LAYERS
from tailrace.monitor.predictions import CallFacts, LogChoice, Predictions
from tailrace.monitor.redacting import Redacting

VERSION: Final = 2
MARKS: Final = len(LAYERS) + 1
_SCHEMAS_MAX: Final = 64
EVENT: Final = "$event"
"""The field of a stored row that says when it became true (features/row_layout.py)."""


class Column(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One array. dtype: "" for texts and other objects, which are in `items`. shape: of one row."""

    dtype: str
    shape: tuple[int, ...] = ()
    data: bytes = b""
    items: list[Any] = []


class FeatureSchema(msgspec.Struct, frozen=True):
    """Where a feature is. view: whose field it is, -1 for a column of its own. place: of that column."""

    name: str
    view: int = -1
    field: str = ""
    place: int = -1
    is_redacted: bool = False


class ViewSchema(msgspec.Struct, frozen=True):
    """A view. repeats: one row of it stands for every row of its request. The rest: the dtype of its rows."""

    name: str
    repeats: bool
    names: list[str]
    formats: list[tuple[str, tuple[int, ...]]]
    offsets: list[int]
    itemsize: int

    def dtype(self) -> np.dtype[Any]:
        """Return the dtype of its rows."""
        formats: list[Any] = list(self.formats)
        return np.dtype({"names": self.names, "formats": formats, "offsets": self.offsets, "itemsize": self.itemsize})


class FrameSchema(msgspec.Struct, frozen=True, kw_only=True):
    """What all frames of one pipeline and worker have in common.

    redacts: the JSON schema of a request that does; answer_redacts: of an answer. choice: what is logged; None for all.
    """

    version: int = VERSION
    pipeline: str
    release: str
    slot: int
    features: list[FeatureSchema]
    views: list[ViewSchema]
    labels: tuple[str, ...]
    branches: dict[str, list[str | None]]
    redacts: dict[str, Any] | None = None
    answer_redacts: dict[str, Any] | None = None
    choice: LogChoice | None = None


class ViewPart(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The rows of one view. noted: their provenance, where not all are fresh."""

    data: bytes
    strings: dict[str, list[str]]
    noted: bytes | None


class Frame(msgspec.Struct, frozen=True, array_like=True, kw_only=True, gc=False):
    """Some batches, one behind the other; last those whose requests have no rows.

    Texts have a line each. epoch_ns: when the monotonic clock began. requests: a JSON array.
    batch_calls, call_requests, request_rows: how many each has; None for one. request_ids, parents, clients: of each
    call; see `Source`. parents: empty where no call has one. errors: of calls, by their places. coalesced: of the last
    calls, how they came to another's answer, and answers: the JSON array of what their requests were answered; both
    None where there are none. routes, states: of each call, where spans are made of it; else None.
    remote: of batches, by their places, what they asked of remote models.
    """

    schema: bytes
    epoch_ns: int
    requests: bytes
    batch_calls: list[int]
    call_requests: list[int] | None
    request_rows: list[int] | None
    marks_ns: list[list[int]]
    finished_ns: list[int]
    arrivals_ns: list[int]
    request_ids: bytes
    parents: bytes
    clients: bytes
    columns: list[Column]
    views: list[ViewPart]
    scores: Column
    decisions: bytes | None
    reasons: list[tuple[str, ...]] | None
    degraded: bytes | None
    failed: bytes | None
    errors: dict[int, str]
    branches: dict[str, bytes]
    coalesced: list[str] | None = None
    answers: bytes | None = None
    routes: bytes | None = None
    states: bytes | None = None
    remote: dict[int, list[RemoteAsked]] | None = None


def schema_of_view(name: str, dtype: np.dtype[Any], *, repeats: bool) -> ViewSchema:
    """Return the schema of a view whose rows are of a dtype."""
    fields: Mapping[str, Any] = dtype.fields or {}
    formats = [(kind.base.str, kind.shape) for kind, *_ in fields.values()]
    offsets = [int(offset) for _, offset, *_ in fields.values()]
    return ViewSchema(name, repeats, list(fields), formats, offsets, dtype.itemsize)


class FrameReader:
    """Reads frames, of any worker."""

    def __init__(self) -> None:
        self._decode = msgspec.msgpack.Decoder(Frame).decode
        self._known: dict[bytes, _SchemaReader] = {}

    def read(self, data: bytes) -> Predictions:
        """Return what a frame holds. Raises ValueError for one of another version, or that is none."""
        try:
            frame = self._decode(data)
        except msgspec.DecodeError as error:
            raise ValueError(f"it is no frame: {error}") from None
        reader = self._known.get(frame.schema)
        if reader is None:
            if len(self._known) >= _SCHEMAS_MAX:
                self._known.clear()
            reader = self._known[frame.schema] = _SchemaReader(frame.schema)
        return reader.read(frame)


class _SchemaReader:
    """Reads the frames of one schema."""

    def __init__(self, schema: bytes) -> None:
        try:
            self._schema = msgspec.json.decode(schema, type=FrameSchema)
        except msgspec.DecodeError as error:
            raise ValueError(f"its schema cannot be read: {error}") from None
        if self._schema.version != VERSION:
            raise ValueError(f"it is of version {self._schema.version}, not {VERSION}")
        self._dtypes = [view.dtype() for view in self._schema.views]
        redacts, answer_redacts = self._schema.redacts, self._schema.answer_redacts
        self._redacting = None if redacts is None else Redacting(redacts)
        self._of_answers = None if answer_redacts is None else Redacting(answer_redacts)
        self._requests = msgspec.json.Decoder(list[msgspec.Raw]).decode

    def read(self, frame: Frame) -> Predictions:
        """Return what a frame holds."""
        schema, of_batch = self._schema, _repeats(frame.batch_calls)
        calls = len(frame.arrivals_ns)
        marks = np.array(frame.marks_ns, np.int64)
        finished, arrivals = np.array(frame.finished_ns, np.int64), np.array(frame.arrivals_ns, np.int64)
        of_call = np.arange(calls) if frame.call_requests is None else _repeats(frame.call_requests)
        batch_of, call_of = of_batch[of_call], of_call
        rows_of = None if frame.request_rows is None else _repeats(frame.request_rows)
        rows = len(call_of) if rows_of is None else len(rows_of)
        parents = _lines(frame.parents, calls)
        of_request = _spreading(None if frame.call_requests is None else of_call)
        views = [np.frombuffer(part.data, dtype) for part, dtype in zip(frame.views, self._dtypes, strict=True)]
        own = [_array(column) for column in frame.columns]
        return Predictions(
            pipeline=schema.pipeline,
            release=schema.release,
            slot=schema.slot,
            requests=self._texts(frame.requests),
            request_ids=of_request(_lines(frame.request_ids, calls)),
            traces=of_request([parent[3:35] for parent in parents] if frame.parents else parents),
            clients=of_request(_lines(frame.clients, calls)),
            errors=of_request(_errors(frame.errors, calls)),
            answered_ns=(finished + frame.epoch_ns)[batch_of],
            waits_ns=np.maximum(marks[batch_of, 0] - arrivals[call_of], 0),
            whole_ns=np.maximum(finished[batch_of] - arrivals[call_of], 0),
            layers_ns=np.diff(marks, axis=1)[batch_of],
            row_request=rows_of,
            features=self._features(frame, own, views, rows_of),
            provenance={
                view.name: _spread(_bytes(part.noted, len(found)), rows_of if view.repeats else None)
                for view, part, found in zip(schema.views, frame.views, views, strict=True)
            },
            event_ns={
                view.name: _spread(found[EVENT].astype(np.int64), rows_of if view.repeats else None)
                for view, found in zip(schema.views, views, strict=True)
                if EVENT in view.names
            },
            scores=_array(frame.scores),
            decisions=None if frame.decisions is None else np.frombuffer(frame.decisions, np.int64),
            labels=schema.labels,
            reasons=frame.reasons,
            degraded=_bytes(frame.degraded, rows),
            failed=_bytes(frame.failed, rows).view(np.bool_),
            branches={
                name: np.array([*schema.branches[name], None], object)[np.frombuffer(places, np.int64)].tolist()
                for name, places in frame.branches.items()
            },
            choice=schema.choice,
            calls=None if frame.routes is None else _facts_of(frame, parents, of_call, of_batch, arrivals),
            **self._shared(frame, len(of_call)),
        )

    def _texts(self, requests: bytes) -> list[bytes]:
        """Return the JSON of each request, as it may be kept."""
        texts = list(map(bytes, self._requests(requests)))
        return texts if self._redacting is None else [self._redacting.mask(text) for text in texts]

    def _shared(self, frame: Frame, requests: int) -> dict[str, Any]:
        """Return what is told of requests that were answered by other calls' computations, which are the last ones."""
        if frame.coalesced is None or frame.answers is None:
            return {}
        answers = list(map(bytes, self._requests(frame.answers)))
        before = requests - len(answers)
        if self._redacting is not None:  # an answer may repeat what the request is not to tell
            answers = [b""] * len(answers)
        elif self._of_answers is not None:
            answers = [self._of_answers.mask(answer) for answer in answers]
        return {"coalesced": [""] * before + frame.coalesced, "answers": [b""] * before + answers}

    def _features(
        self, frame: Frame, own: list[NDArray[Any]], views: list[NDArray[Any]], rows_of: NDArray[np.int64] | None
    ) -> dict[str, NDArray[Any]]:
        """Return the features by name; without those that are redacted."""
        found: dict[str, NDArray[Any]] = {}
        for feature in self._schema.features:
            if feature.is_redacted:
                continue
            if feature.view < 0:
                found[feature.name] = own[feature.place]
                continue
            texts = frame.views[feature.view].strings.get(feature.field)
            column = views[feature.view][feature.field] if texts is None else _objects(texts)
            repeats = self._schema.views[feature.view].repeats
            found[feature.name] = _spread(column, rows_of if repeats else None)
        return found


def _facts_of(
    frame: Frame,
    parents: list[str],
    of_call: NDArray[np.int64],
    of_batch: NDArray[np.int64],
    arrivals_ns: NDArray[np.int64],
) -> CallFacts:
    """Return what spans are made of."""
    return CallFacts(
        request_call=of_call,
        batch=of_batch,
        arrivals_ns=arrivals_ns,
        routes=_lines(frame.routes or b"", len(parents)),
        parents=[parent.encode() for parent in parents],
        states=[state.encode() for state in _lines(frame.states or b"", len(parents))],
        remote={batch: _since_the_epoch(found, frame.epoch_ns) for batch, found in (frame.remote or {}).items()},
    )


def _since_the_epoch(asked: list[RemoteAsked], epoch_ns: int) -> list[RemoteAsked]:
    return [each._replace(began_ns=each.began_ns + epoch_ns, ended_ns=each.ended_ns + epoch_ns) for each in asked]


def _lines(data: bytes, count: int) -> list[str]:
    """Return texts, of which there are so many: as they came, what is not ASCII as its escapes; none is as empty."""
    found = data.decode("ascii", "backslashreplace").split("\n") if data else [""] * count
    if len(found) != count:
        raise ValueError(f"it has {len(found)} texts for {count} calls")
    return found


def _errors(errors: dict[int, str], count: int) -> list[str]:
    """Return the error of each call; empty for none."""
    return [errors.get(place, "") for place in range(count)] if errors else [""] * count


def _spreading(whose: NDArray[np.int64] | None) -> Callable[[list[str]], list[str]]:
    """Return what gives to each item what belongs to whose it is; all as they are for None."""
    if whose is None:
        return lambda texts: texts
    places = whose.tolist()
    return lambda texts: [texts[place] for place in places]


def _repeats(counts: list[int]) -> NDArray[np.int64]:
    """Return whose each item is, of things that have so many each."""
    return np.repeat(np.arange(len(counts), dtype=np.int64), counts)


def _spread(values: NDArray[Any], rows_of: NDArray[np.int64] | None) -> NDArray[Any]:
    return values if rows_of is None else values[rows_of]


def _bytes(data: bytes | None, count: int) -> NDArray[np.uint8]:
    return np.zeros(count, np.uint8) if data is None else np.frombuffer(data, np.uint8)


def _array(column: Column) -> NDArray[Any]:
    if not column.dtype:
        return _objects(column.items)
    return np.frombuffer(column.data, np.dtype(column.dtype)).reshape(-1, *column.shape)


def _objects(items: list[Any]) -> NDArray[Any]:
    found = np.empty(len(items), dtype=object)
    found[:] = items
    return found
