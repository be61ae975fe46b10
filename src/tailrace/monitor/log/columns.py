"""The columns of the prediction log: predictions as an Arrow table, a line a row.

    time, request_id, trace, client, release, slot, row, request, error, coalesced, answer, share, failed, score,
    decision, reasons, degraded,
    features: {NAME: value}, provenance: {VIEW: "fresh"}, event_time: {VIEW: time}, branches: {STAGE: name},
    wait_us, request_us, features_us, inference_us, postprocess_us, response_us, whole_us

`request` is the JSON of the request, on its first row alone; `row` is the place of a row among those of its request. A
request without rows has a line, whose columns of rows are null.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tailrace.batch import Degraded, Provenance
from tailrace.deadline import LAYERS
from tailrace.monitor.log.names import SCHEMA_VERSION, VERSION_KEY
from tailrace.monitor.predictions import Predictions

PIPELINE_KEY: Final = b"tailrace.pipeline"
_TIME: Final = pa.timestamp("us", tz="UTC")
_PROVENANCES: Final = pa.array([each.name.lower() for each in Provenance])
_DEGRADED: Final = [(int(flag), (flag.name or "").lower()) for flag in Degraded]
_NS_PER_US: Final = 1_000


def log_table(predictions: Predictions) -> pa.RecordBatch:
    """Return predictions as they are logged."""
    found, bare = predictions, _bare(predictions)
    places = np.append(found.places, bare) if len(bare) else found.places
    of_rows = {name: _padded(column, len(bare)) for name, column in _of_rows(found).items()}
    columns = {
        **_of_requests(found, places, bare),
        **of_rows,
        "wait_us": _spans(found.waits_ns[places]),
        **{f"{layer}_us": _spans(found.layers_ns[places, place]) for place, layer in enumerate(LAYERS)},
        "whole_us": _spans(found.whole_ns[places]),
    }
    schema = pa.schema(
        [pa.field(name, column.type) for name, column in columns.items() if column is not None],
        metadata={VERSION_KEY: str(SCHEMA_VERSION).encode(), PIPELINE_KEY: found.pipeline.encode()},
    )
    return pa.RecordBatch.from_arrays([column for column in columns.values() if column is not None], schema=schema)


def _of_requests(found: Predictions, places: NDArray[np.int64], bare: NDArray[np.int64]) -> dict[str, pa.Array]:
    """Return what lines say of their requests. places: each line's. bare: of those without rows, which come last."""
    first = np.append(_first_rows(found.row_request, found.rows), np.arange(found.rows, len(places)))
    listed = places.tolist()
    nothing = pa.nulls(len(places), pa.string())
    return {
        "time": _times(found.answered_ns[places]),
        "request_id": _texts(found.request_ids, listed),
        "trace": _texts(found.traces, listed),
        "client": _texts(found.clients, listed),
        "release": pa.repeat(found.release, len(places)),
        "slot": pa.array(np.full(len(places), found.slot, np.int32)),
        "row": pa.array((np.arange(len(places)) - first).astype(np.int32)),
        "request": _requests(found, first, listed),
        "error": _texts(found.errors, listed),
        "coalesced": nothing if found.coalesced is None else _texts(found.coalesced, listed),
        "answer": nothing if found.answers is None else _texts(found.answers, listed),
        "share": pa.array(np.ones(len(places), np.float32) if found.shares is None else found.shares[places]),
    }


def _of_rows(found: Predictions) -> dict[str, pa.Array | None]:
    """Return what lines say of their rows; None for what no row has."""
    return {
        "failed": pa.array(found.failed),
        "score": _numbers(found.scores, found.failed),
        "decision": _decisions(found),
        "reasons": pa.array(found.reasons or [()] * found.rows, pa.list_(pa.string())),
        "degraded": pa.array(_flags(found.degraded), pa.list_(pa.string())),
        "features": _struct({name: _values(column) for name, column in found.features.items()}, found.rows),
        "provenance": _struct({name: _provenance(column) for name, column in found.provenance.items()}, found.rows),
        "event_time": _struct({name: _event_times(column) for name, column in found.event_ns.items()}, found.rows),
        "branches": _struct({name: _names(labels) for name, labels in found.branches.items()}, found.rows),
    }


def _bare(found: Predictions) -> NDArray[np.int64]:
    """Return the places of the requests that have no rows."""
    if found.row_request is None:
        return np.empty(0, np.int64)
    return np.flatnonzero(np.bincount(found.row_request, minlength=len(found.requests)) == 0)


def _padded(column: pa.Array | None, count: int) -> pa.Array | None:
    """Return a column with so many nulls behind it."""
    return column if column is None or not count else pa.concat_arrays([column, pa.nulls(count, column.type)])


def _first_rows(row_request: NDArray[np.int64] | None, rows: int) -> NDArray[np.int64]:
    """Return where each row's request begins, int64 (rows,)."""
    if row_request is None:
        return np.arange(rows, dtype=np.int64)
    begins = np.flatnonzero(np.diff(row_request, prepend=-1))
    lengths = np.diff(np.append(begins, rows))
    return np.repeat(begins, lengths)


def _requests(found: Predictions, first: NDArray[np.int64], places: list[int]) -> pa.Array:
    """Return the JSON of each line's request; null where it is not its first line."""
    if found.row_request is None:
        return pa.array(found.requests, pa.string())
    begins = (first == np.arange(len(first))).tolist()
    told = [found.requests[place] if begin else None for place, begin in zip(places, begins, strict=True)]
    return pa.array(told, pa.string())


def _times(values_ns: NDArray[np.int64]) -> pa.Array:
    return pa.array(values_ns // _NS_PER_US).cast(_TIME)


def _event_times(values_ns: NDArray[np.int64]) -> pa.Array:
    return pa.array(values_ns // _NS_PER_US, mask=values_ns == 0).cast(_TIME)


def _spans(values_ns: NDArray[np.int64]) -> pa.Array:
    return pa.array(np.clip(values_ns // _NS_PER_US, 0, np.iinfo(np.int32).max).astype(np.int32))


def _texts(texts: Sequence[str | bytes], places: list[int]) -> pa.Array:
    """Return a text for each line; null for an empty one."""
    return pa.array([texts[place] or None for place in places], pa.string())


def _names(texts: list[Any]) -> pa.Array:
    return pa.array(texts, pa.string())


def _decisions(found: Predictions) -> pa.Array | None:
    if found.decisions is None:
        return None
    places = pa.array(found.decisions.astype(np.int32), mask=(found.decisions < 0) | found.failed)
    return pa.array(found.labels, pa.string()).take(places)


def _provenance(column: NDArray[np.uint8]) -> pa.Array:
    return _PROVENANCES.take(pa.array(column))


def _flags(degraded: NDArray[np.uint8]) -> list[list[str]]:
    sets = {bits: [name for flag, name in _DEGRADED if bits & flag] for bits in set(degraded.tolist())}
    return [sets[bits] for bits in degraded.tolist()]


def _numbers(values: NDArray[Any], is_null: NDArray[np.bool_]) -> pa.Array:
    """Return a column of numbers, or of vectors, without those that are not there."""
    if values.ndim == 1:
        return pa.array(np.ascontiguousarray(values), mask=np.ascontiguousarray(is_null))
    return _vectors(values)


def _values(column: NDArray[Any]) -> pa.Array:
    """Return a feature's column."""
    if column.ndim > 1:
        return _vectors(column)
    if column.dtype.kind == "O":
        return pa.array([None if value is None else str(value) for value in column.tolist()], pa.string())
    return pa.array(np.ascontiguousarray(column))


def _vectors(values: NDArray[Any]) -> pa.Array:
    flat = np.ascontiguousarray(values).reshape(len(values), -1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), flat.shape[1])


def _struct(columns: dict[str, pa.Array], rows: int) -> pa.Array | None:
    """Return columns as the fields of one; None for none: Parquet knows no empty struct."""
    return pa.StructArray.from_arrays(list(columns.values()), names=list(columns)) if columns and rows >= 0 else None
