"""From resolved names to bound readers: what takes a column, a block or a response field's values out of a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from operator import attrgetter
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from tailrace.features.rows import RowCodec
from tailrace.features.view_rows import ViewRows
from tailrace.features.views import ViewSpec
from tailrace.postprocess.decider import Decider
from tailrace.request.columns import LazyColumn
from tailrace.response.encoder import ValueReader
from tailrace.types import Batch
from tailrace.wiring import Origin, Source, Wiring


class ViewColumns:
    """The columns of a view in a batch: `profile.avg_amount_90d` is an array, shape (rows,), made when first asked.

    A subclass made by `view_columns_type` has a property for every column. row_request: the request of each row, where
    the rows of the batch are not the view's own.
    """

    def __init__(self, rows: ViewRows, row_request: NDArray[np.intp] | None) -> None:
        self._rows = rows
        self._row_request = row_request

    def __getattr__(self, name: str) -> NDArray[Any]:
        raise AttributeError(f"the view has no column {name!r}")


def view_columns_type(spec: ViewSpec) -> type[ViewColumns]:
    """Return the columns class of a view."""
    columns = {column.name: _view_column(column.name) for column in spec.columns}
    return type(f"{spec.name}Columns", (ViewColumns,), columns)


def _view_column(name: str) -> LazyColumn:
    def make(columns: ViewColumns) -> NDArray[Any]:
        column = columns._rows.column(name)
        return column if columns._row_request is None else column[columns._row_request]

    return LazyColumn(name, make)


def reader_of(source: Source, labels: Sequence[str] = ()) -> Callable[[Batch], Any]:
    """Return what reads a source from a batch: a column, or an object with columns where the source names none.

    labels: that a decision may have, for the decision so far.
    """
    name, view = source.name, source.view
    match source.origin:
        case Origin.REQUEST:
            return (lambda batch: getattr(batch.request, name)) if name else (lambda batch: batch.request)
        case Origin.VIEW:
            return (lambda batch: getattr(batch.views[view], name)) if name else (lambda batch: batch.views[view])
        case Origin.ON_DEMAND:
            return lambda batch: batch.on_demand[name]
        case Origin.SCORE:
            return lambda batch: batch.scores
        case Origin.DECISION:
            texts = np.array(labels, dtype=object)
            return lambda batch: texts[batch.decisions]
    raise AssertionError(source)


def on_demand_column(name: str, value: Any, rows: int) -> NDArray[Any]:
    """Return what a function gave as a column, shape (rows,). NumPy would stretch an array of one over all rows."""
    column = np.asarray(value)
    if column.shape not in ((), (rows,)):
        raise ValueError(f"@on_demand {name} gives shape {column.shape} for {rows} rows")
    return np.broadcast_to(column, (rows,))


def value_reader(source: Source, wiring: Wiring, decider: Decider) -> ValueReader:
    """Return what reads a response field: Python values, one a request, a list each where a request makes many rows."""
    if source.origin is Origin.REQUEST:
        read = attrgetter(source.name)
        return lambda batch: list(map(read, batch.requests))

    def rows(batch: Batch) -> list[Any]:
        match source.origin:
            case Origin.DECISION:
                return list(decider.decision_column(batch))
            case Origin.REASONS:
                return batch.reasons if batch.reasons is not None else [()] * batch.rows
            case Origin.PROBABILITIES:
                return list((batch.probabilities if batch.probabilities is not None else batch.scores).tolist())
        return list(column(batch).tolist())

    if source.origin in (Origin.VIEW, Origin.ON_DEMAND, Origin.SCORE):
        column = reader_of(source)
    if wiring.expanded is None:
        return rows

    def lists(batch: Batch) -> list[Any]:
        values, bounds = rows(batch), cast(NDArray[np.intp], batch.row_bounds).tolist()
        return [values[begin:end] for begin, end in pairwise(bounds)]

    return lists


def block_reader(view: int, names: Sequence[str], codec: RowCodec, repeats: bool) -> Callable[[Batch], NDArray[Any]]:
    """Return what reads columns that lie side by side in a view's rows, as one matrix without a copy.

    repeats: a row of the view stands for every row that its request makes.
    """
    block = next(block for block in codec.blocks if names[0] in block.columns)
    field, first = block.field, block.columns.index(names[0])
    part = slice(first, first + len(names))
    if repeats:
        return lambda batch: batch.view_rows[view].data[field][batch.row_request, part]
    if len(names) == len(block.columns):
        return lambda batch: batch.view_rows[view].data[field]
    return lambda batch: batch.view_rows[view].data[field][:, part]


def input_parts(
    wiring: Wiring, names: Sequence[str], codecs: Sequence[RowCodec]
) -> list[tuple[int, Callable[[Batch], NDArray[Any]]]]:
    """Group a tensor's inputs into runs that one copy can fill."""
    parts: list[tuple[int, Callable[[Batch], NDArray[Any]]]] = []
    sources = [wiring.features[name] for name in names]
    start = 0
    while start < len(sources):
        source, end = sources[start], start + 1
        if source.origin is Origin.VIEW and not source.is_text:
            codec = codecs[source.view]
            while end < len(sources) and _is_next(sources[end - 1], sources[end], codec):
                end += 1
        if end - start > 1:
            block = [item.name for item in sources[start:end]]
            repeats = wiring.expanded not in (None, wiring.keys[source.view])
            parts.append((end - start, block_reader(source.view, block, codec, repeats)))
        else:
            parts.append((1, reader_of(source)))
        start = end
    return parts


def _is_next(source: Source, other: Source, codec: RowCodec) -> bool:
    """Say whether a column lies right behind another in the packed row, with the same type."""
    if other.origin is not Origin.VIEW or other.view != source.view or other.is_text:
        return False
    columns = next(block.columns for block in codec.blocks if source.name in block.columns)
    return other.name in columns and columns.index(other.name) == columns.index(source.name) + 1
