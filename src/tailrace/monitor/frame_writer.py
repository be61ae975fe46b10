"""Makes frames of batches: the columns of many together, so that a request costs a worker little.

`bench/monitoring_log.py` holds that cost; what can be done in C for all calls at once is.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from itertools import accumulate, chain, repeat
from operator import attrgetter, is_not, methodcaller
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from tailrace.batch import Batch, Call, RemoteAsked
from tailrace.compile.binding import reader_of
from tailrace.compile.resolve import wire
from tailrace.compile.wiring import Origin
from tailrace.features.view_rows import ViewRows
from tailrace.inference.composition.declarations import compositions_of
from tailrace.monitor.frames import MARKS, Column, FeatureSchema, Frame, FrameSchema, ViewPart, schema_of_view
from tailrace.monitor.metrics import slug
from tailrace.monitor.predictions import LogChoice
from tailrace.monitor.redacting import redacted_fields, schema_that_redacts
from tailrace.pipeline import Pipeline

_arrival_of, _data_of, _noted_of, _dtype_of = map(attrgetter, ("arrival_ns", "data", "noted", "dtype"))
_bytes_of, _source_of = map(methodcaller, ("tobytes", "source"))
_told_of = attrgetter("calls", "requests", "offsets", "row_bounds", "marks_ns", "errors")
_COLUMNS: Final = "rows", "view_rows", "scores", "decisions", "reasons", "degraded", "failed", "branches"
_columns_of = attrgetter(*_COLUMNS)


def is_whole(batch: Batch) -> bool:
    """Return whether a batch has come through all layers, and has rows: of another only the calls are told."""
    return len(batch.marks_ns) == MARKS and batch.rows > 0


class FrameWriter:
    """Makes the frames of one pipeline. slot: of the worker. traced: whether spans are made of its calls.

    labels: of decisions that the declaration does not name.
    """

    def __init__(
        self, pipeline: Pipeline, release: str, slot: int, *, traced: bool, labels: Sequence[str] = ()
    ) -> None:
        wiring = wire(pipeline)
        named = wiring.labels or tuple(labels)
        self._is_traced = traced
        secret = redacted_fields(pipeline.request)
        own = [each for each in wiring.features.items() if each[1].origin is not Origin.VIEW]
        self._reads: list[Callable[[Batch], Any]] = [reader_of(each).read for _, each in own]
        places = {name: place for place, (name, _) in enumerate(own)}
        self._features = [
            FeatureSchema(
                name, each.view, each.name, places.get(name, -1),
                is_redacted=each.origin is Origin.REQUEST and each.name in secret,
            )
            for name, each in wiring.features.items()
        ]  # fmt: skip
        self._views = [
            (view.__name__, wiring.expanded is not None and not wiring.expands(place))
            for place, view in enumerate(wiring.views)
        ]
        self._schema = FrameSchema(
            pipeline=pipeline.name, release=release, slot=slot, features=[], views=[], labels=named,
            branches={each.name: list(each.branches) for each in compositions_of(pipeline.model)},
            redacts=schema_that_redacts(pipeline.request), answer_redacts=schema_that_redacts(pipeline.response),
            choice=_choice_of(pipeline),
        )  # fmt: skip
        self._encode_json = msgspec.json.Encoder().encode
        self._schema_json = self._encode_json(self._schema)
        self._is_described = False
        self._no_rows: dict[str, Any] = {
            "columns": [], "views": [], "scores": Column("<f4"), "decisions": b"" if named else None,
            "reasons": None, "degraded": None, "failed": None, "branches": {},
        }  # fmt: skip

    def frame(
        self, batches: list[Batch], bare: list[Batch], finished_ns: list[int], epoch_ns: int
    ) -> Generator[None, None, Frame]:
        """Make the frame of some batches, in steps of some 0.2 ms: between them a loop may see to other things.

        bare: those that are not whole, see `is_whole`. finished_ns: of all, in this order. epoch_ns: see `Frame`.
        """
        whose = [*batches, *map(_bared, bare)] if bare else batches
        calls_of, requests_of, offsets, row_bounds, marks_ns, errors = zip(*map(_told_of, whose), strict=True)
        calls: list[Call] = list(chain.from_iterable(calls_of))
        request_ids, parents, clients = zip(*map(_source_of, calls), strict=True)
        requests = self._encode_json(list(chain.from_iterable(requests_of)))
        yield
        columns = (yield from self._columns(batches)) if batches else self._no_rows
        shared = [batch for batch in bare if batch.coalesced]
        return Frame(
            schema=self._schema_json,
            epoch_ns=epoch_ns,
            requests=requests,
            batch_calls=list(map(len, calls_of)),
            call_requests=_lengths(offsets, calls_of),
            request_rows=_lengths(row_bounds, requests_of),
            marks_ns=list(marks_ns),
            finished_ns=finished_ns,
            arrivals_ns=list(map(_arrival_of, calls)),
            request_ids=b"\n".join(request_ids),
            parents=b"\n".join(parents) if any(parents) else b"",
            clients=b"\n".join(clients),
            errors=_errors(whose) if any(errors) else {},
            coalesced=_ways(shared) if shared else None,
            answers=self._encode_json(_answers(shared)) if shared else None,
            routes=b"\n".join([call.route.encode() for call in calls]) if self._is_traced else None,
            states=b"\n".join([call.trace_state for call in calls]) if self._is_traced and any(parents) else None,
            remote=_asked_of(batches) if self._is_traced else None,
            **columns,
        )

    def _columns(self, batches: list[Batch]) -> Generator[None, None, dict[str, Any]]:
        """Make what a frame has of rows, in steps."""
        if not self._is_described:
            self._describe(batches[0])
        found = dict(zip(_COLUMNS, zip(*map(_columns_of, batches), strict=True), strict=True))
        own, views = [], []
        for read in self._reads:
            yield
            own.append(_column(list(map(read, batches))))
        for parts in zip(*found["view_rows"], strict=True):
            yield
            views.append(_view_part(parts))
        yield
        rows = found["rows"]
        columns = {
            "columns": own,
            "views": views,
            "scores": _column(found["scores"]),
            "decisions": _joined(found["decisions"]),
            "reasons": _reasons(found["reasons"], rows),
            "degraded": _filled(found["degraded"], rows),
            "failed": _filled(found["failed"], rows),
            "branches": _branches(batches) if _is_set(found["branches"]) else {},
        }
        if not self._is_described:
            self._no_rows, self._is_described = _without_rows(columns), True
        return columns

    def _describe(self, batch: Batch) -> None:
        """Take the schema, once the rows of the views are known."""
        views = [
            schema_of_view(name, rows.data.dtype, repeats=repeats)
            for (name, repeats), rows in zip(self._views, batch.view_rows, strict=True)
        ]
        schema = msgspec.structs.replace(self._schema, features=self._features, views=views)
        self._schema_json = self._encode_json(schema)


def _choice_of(pipeline: Pipeline) -> LogChoice | None:
    """Return what of a pipeline's requests is logged; None for all."""
    log = pipeline.log
    return None if log.sample >= 1 else LogChoice(log.sample, log.keep, pipeline.budget.total_ns)


def _asked_of(batches: list[Batch]) -> dict[int, list[RemoteAsked]] | None:
    """Return what batches have asked of remote models, by their places; None for nothing."""
    return {place: batch.remote for place, batch in enumerate(batches) if batch.remote is not None} or None


def _bared(batch: Batch) -> Batch:
    """Return a batch of which only the calls are told, as one whose requests have no rows."""
    asked = [call.requests if type(call.requests) is list else [call.requests] for call in batch.calls]
    marks_ns = batch.marks_ns or [batch.started_ns]
    requests = list(chain.from_iterable(asked))
    return Batch(
        batch.calls,
        batch.started_ns,
        batch.deadline_ns,
        marks_ns=[*marks_ns, *[marks_ns[-1]] * (MARKS - len(marks_ns))],
        requests=requests,
        offsets=[0, *accumulate(map(len, asked))],
        row_bounds=np.zeros(len(requests) + 1, np.intp),
        errors=batch.errors,
    )


def _ways(batches: Sequence[Batch]) -> list[str]:
    """Return, of each request, how its call came to another's answer."""
    return [batch.coalesced for batch in batches for _ in batch.requests]


def _answers(batches: Sequence[Batch]) -> list[Any]:
    """Return what each request was answered by another's computation; None for an error."""
    found: list[Any] = []
    for batch in batches:
        for call, value in zip(batch.calls, batch.responses, strict=True):
            many = len(call.requests) if type(call.requests) is list else 1
            found += value if type(value) is list else [value] * many
    return found


def _without_rows(columns: dict[str, Any]) -> dict[str, Any]:
    """Return what a frame has of no rows, of the types that its rows have."""
    return {
        "columns": [Column(each.dtype, each.shape) for each in columns["columns"]],
        "views": [ViewPart(b"", {name: [] for name in each.strings}, None) for each in columns["views"]],
        "scores": Column(columns["scores"].dtype, columns["scores"].shape),
        "decisions": None if columns["decisions"] is None else b"",
        "reasons": None, "degraded": None, "failed": None,
        "branches": dict.fromkeys(columns["branches"], b""),
    }  # fmt: skip


def _is_set(parts: Sequence[Any]) -> bool:
    """Return whether any batch has a part."""
    return any(map(is_not, parts, repeat(None)))


def _column(parts: Sequence[NDArray[Any]]) -> Column:
    """Return the parts of a column as one."""
    if parts[0].dtype.kind == "O":
        return Column("", items=list(chain.from_iterable([part.tolist() for part in parts])))
    if len(set(map(_dtype_of, parts))) == 1:
        return Column(parts[0].dtype.str, parts[0].shape[1:], _packed(parts))
    whole = np.concatenate(parts)  # of a function that gives now whole numbers, now others
    return Column(whole.dtype.str, whole.shape[1:], whole.tobytes())


def _packed(parts: Iterable[Any]) -> bytes:
    """Return arrays as bytes, one behind the other."""
    try:
        return b"".join(parts)
    except (BufferError, ValueError):  # one has gaps, or is one value for all rows
        return b"".join(map(_bytes_of, parts))


def _view_part(found: Sequence[ViewRows]) -> ViewPart:
    """Return the rows of one view."""
    strings = {name: list(chain.from_iterable([rows.strings[name] for rows in found])) for name in found[0].strings}
    noted = list(map(_noted_of, found))
    data = _packed(list(map(_data_of, found)))
    return ViewPart(data, strings, _filled(noted, list(map(len, found))) if _is_set(noted) else None)


def _joined(parts: Sequence[NDArray[Any] | None]) -> bytes | None:
    found = [part for part in parts if part is not None]
    return _packed(found) if found else None


def _filled(parts: Sequence[NDArray[Any] | None], rows: Sequence[int]) -> bytes | None:
    """Return a column of bytes, zeros for a batch that has none; None where no batch has it."""
    if not _is_set(parts):
        return None
    if type(None) in set(map(type, parts)):
        parts = [np.zeros(count, np.uint8) if part is None else part for part, count in zip(parts, rows, strict=True)]
    return _packed(parts)


def _lengths(bounds: Sequence[Any], items: Sequence[Sequence[Any]]) -> list[int] | None:
    """Return how many each item has, from where its own begin; None where each has one."""
    if not _is_set(bounds):
        return None
    found: list[int] = []
    for part, own in zip(bounds, items, strict=True):
        found += [1] * len(own) if part is None else np.diff(part).tolist()
    return found


def _reasons(parts: Sequence[list[tuple[str, ...]] | None], rows: Sequence[int]) -> list[tuple[str, ...]] | None:
    """Return the reasons of each row; None where no batch has any."""
    if not _is_set(parts):
        return None
    return list(chain.from_iterable([part or [()] * count for part, count in zip(parts, rows, strict=True)]))


def _errors(batches: Sequence[Batch]) -> dict[int, str]:
    """Return the kinds of errors by the places of their calls."""
    found: dict[int, str] = {}
    first = 0
    for batch in batches:
        if batch.errors:
            found |= {first + place: slug(type(error)) for place, error in batch.errors.items()}
        first += len(batch.calls)
    return found


def _branches(batches: Sequence[Batch]) -> dict[str, bytes]:
    """Return which way each row went; -1 where it did not come to a stage."""
    names = dict.fromkeys(chain.from_iterable([batch.branches or () for batch in batches]))
    return {
        name: np.concatenate(
            [(batch.branches or {}).get(name, np.full(batch.rows, -1)) for batch in batches], dtype=np.int64
        ).tobytes()
        for name in names
    }
