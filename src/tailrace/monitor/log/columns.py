"""The columns of the prediction log: predictions as an Arrow table, a line a row.

    time, request_id, trace, client, release, slot, row, request, error, failed, score, decision, reasons, degraded,
    features: {NAME: value}, provenance: {VIEW: "fresh"}, event_time: {VIEW: time}, branches: {STAGE: name},
    wait_us, request_us, features_us, inference_us, postprocess_us, response_us, whole_us

`request` is the JSON of the request, on its first row alone; `row` is the place of a row among those of its request.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tailrace.batch import Degraded, Provenance
from tailrace.deadline import LAYERS
from tailrace.monitor.predictions import Predictions

SCHEMA_VERSION: Final = 1
VERSION_KEY: Final = b"tailrace.log.version"
PIPELINE_KEY: Final = b"tailrace.pipeline"
_TIME: Final = pa.timestamp("us", tz="UTC")
_PROVENANCES: Final = pa.array([each.name.lower() for each in Provenance])
_DEGRADED: Final = [(int(flag), (flag.name or "").lower()) for flag in Degraded]
_NS_PER_US: Final = 1_000


def log_table(predictions: Predictions) -> pa.RecordBatch:
    """Return predictions as they are logged."""
    found, places = predictions, predictions.places
    first = _first_rows(found.row_request, found.rows)
    columns: dict[str, pa.Array] = {
        "time": _times(found.answered_ns[places]),
        "request_id": _texts(found.request_ids, places),
        "trace": _texts(found.traces, places),
        "client": _texts(found.clients, places),
        "release": pa.repeat(found.release, found.rows),
        "slot": pa.array(np.full(found.rows, found.slot, np.int32)),
        "row": pa.array(np.arange(found.rows, dtype=np.int32) - first.astype(np.int32)),
        "request": _requests(found, first),
        "error": _names([found.errors[place] or None for place in places.tolist()]),
        "failed": pa.array(found.failed),
        "score": _numbers(found.scores, found.failed),
        "decision": _decisions(found),
        "reasons": pa.array(found.reasons or [()] * found.rows, pa.list_(pa.string())),
        "degraded": pa.array(_flags(found.degraded), pa.list_(pa.string())),
        "features": _struct({name: _values(column) for name, column in found.features.items()}, found.rows),
        "provenance": _struct({name: _provenance(column) for name, column in found.provenance.items()}, found.rows),
        "event_time": _struct({name: _event_times(column) for name, column in found.event_ns.items()}, found.rows),
        "branches": _struct({name: _names(labels) for name, labels in found.branches.items()}, found.rows),
        "wait_us": _spans(found.waits_ns[places]),
        **{f"{layer}_us": _spans(found.layers_ns[places, place]) for place, layer in enumerate(LAYERS)},
        "whole_us": _spans(found.whole_ns[places]),
    }
    schema = pa.schema(
        [pa.field(name, column.type) for name, column in columns.items() if column is not None],
        metadata={VERSION_KEY: str(SCHEMA_VERSION).encode(), PIPELINE_KEY: found.pipeline.encode()},
    )
    return pa.RecordBatch.from_arrays([column for column in columns.values() if column is not None], schema=schema)


def _first_rows(row_request: NDArray[np.int64] | None, rows: int) -> NDArray[np.int64]:
    """Return where each row's request begins, int64 (rows,)."""
    if row_request is None:
        return np.arange(rows, dtype=np.int64)
    begins = np.flatnonzero(np.diff(row_request, prepend=-1))
    lengths = np.diff(np.append(begins, rows))
    return np.repeat(begins, lengths)


def _requests(found: Predictions, first: NDArray[np.int64]) -> pa.Array:
    if found.row_request is None:
        return pa.array(found.requests, pa.string())
    is_first = first == np.arange(found.rows)
    places = zip(found.row_request.tolist(), is_first.tolist(), strict=True)
    return pa.array([found.requests[place] if begins else None for place, begins in places], pa.string())


def _times(values_ns: NDArray[np.int64]) -> pa.Array:
    return pa.array(values_ns // _NS_PER_US).cast(_TIME)


def _event_times(values_ns: NDArray[np.int64]) -> pa.Array:
    return pa.array(values_ns // _NS_PER_US, mask=values_ns == 0).cast(_TIME)


def _spans(values_ns: NDArray[np.int64]) -> pa.Array:
    return pa.array(np.clip(values_ns // _NS_PER_US, 0, np.iinfo(np.int32).max).astype(np.int32))


def _texts(texts: list[str], places: NDArray[np.int64]) -> pa.Array:
    """Return a text for each row; null for an empty one."""
    return pa.array([texts[place] or None for place in places.tolist()], pa.string())


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
