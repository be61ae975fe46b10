"""The requests of a batch as columns: NumPy arrays, one a field, made when first asked for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import UTC, datetime
from itertools import chain
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tailrace.batch import LazyColumn
from tailrace.request.schema import FieldSpec, Request, field_specs

ArrayMaker = Callable[[Iterable[Any], int], NDArray[Any]]
"""From the values of a field, and how many they are, to their column."""


class RequestColumns(msgspec.Struct, frozen=True, dict=True, eq=False):
    """`columns.amount` is the array of that field over the rows of a batch, shape (rows,).

    A subclass made by `columns_type` has a property for every field. `row_request` maps each row to its request where
    a list-valued field expands requests to rows; None where a request is a row. Frozen: what one function put in a
    column's place, all others would read.
    """

    _requests: Sequence[Request]
    _row_request: NDArray[np.intp] | None


class ComparedColumns(RequestColumns, frozen=True, dict=True, eq=False):
    """The columns by which requests are told from each other: no answer may depend on any other."""

    def __getattr__(self, name: str) -> NDArray[Any]:
        raise AttributeError(f"there is no field {name!r} among those that the pipeline coalesces on")


def columns_type(
    request_type: type[Request], expanded: str | None, only: Collection[str] | None = None
) -> type[RequestColumns]:
    """Return the columns class of a request type.

    expanded: the list-valued field that makes the rows, if any. only: the fields that it has columns of; None: all.
    """
    specs = field_specs(request_type)
    names = [name for name in specs if only is None or name in only]
    columns = {name: _column(name, specs[name], expanded) for name in names}
    base = RequestColumns if len(names) == len(specs) else ComparedColumns
    return type(f"{request_type.__name__}Columns", (base,), columns)


def _column(name: str, spec: FieldSpec, expanded: str | None) -> LazyColumn:
    """Return the lazy column of one field."""
    read = _value_reader(name, spec)
    to_array = _array_maker(spec) if name == expanded or not spec.many else _object_maker(spec)
    if spec.width:
        to_array = _vector_maker(spec)
    if name == expanded:
        return LazyColumn(name, lambda columns: _flat(to_array, map(read, columns._requests)))

    def column(columns: RequestColumns) -> NDArray[Any]:
        values = to_array(map(read, columns._requests), len(columns._requests))
        return values if columns._row_request is None else values[columns._row_request]

    return LazyColumn(name, column)


def _value_reader(name: str, spec: FieldSpec) -> Callable[[Request], Any]:
    """Return what reads a field of a request; of a member of an Enum, its value."""
    if not spec.enum or spec.many:
        return attrgetter(name)
    if not spec.nullable:
        return attrgetter(f"{name}.value")
    return lambda request: getattr(getattr(request, name), "value", None)


def _flat(to_array: ArrayMaker, lists: Iterable[list[Any]]) -> NDArray[Any]:
    values = list(chain.from_iterable(lists))
    return to_array(values, len(values))


def _array_maker(spec: FieldSpec) -> ArrayMaker:
    """Return the function that turns the values of a field into its column."""
    dtype = spec.dtype
    if dtype.kind in "fbi":
        if spec.nullable:
            null = float("nan")
            return lambda values, _: np.array([null if value is None else value for value in values], dtype)
        return lambda values, count: np.fromiter(values, dtype, count)
    if dtype == np.dtype("datetime64[us]"):
        return lambda values, _: _times(list(values))
    if dtype.kind == "M":
        return lambda values, _: np.array(list(values), dtype)
    return _object_maker(spec)


def _vector_maker(spec: FieldSpec) -> ArrayMaker:
    """Return what makes a column of vectors, (rows, width): NaN where there is none."""
    dtype, width = spec.dtype, spec.width
    if spec.nullable:
        null = [float("nan")] * width
        return lambda values, count: _stack((null if value is None else value for value in values), dtype, count, width)
    return lambda values, count: _stack(values, dtype, count, width)


def _stack(vectors: Iterable[list[float]], dtype: np.dtype[Any], count: int, width: int) -> NDArray[Any]:
    return np.fromiter(chain.from_iterable(vectors), dtype, count * width).reshape(count, width)


def _object_maker(spec: FieldSpec) -> ArrayMaker:
    """Return what makes a column of Python objects: texts, or a list each; "" where there is none."""
    if spec.nullable:
        return lambda values, count: np.fromiter(("" if value is None else value for value in values), object, count)
    return lambda values, count: np.fromiter(values, object, count)


def _times(values: list[datetime | None]) -> NDArray[Any]:
    """Return a column of UTC times, datetime64[us]; a time without a zone is taken as UTC, None is NaT.

    Exact from the year 1834 to 2106; beyond, a microsecond or more off.
    Through the seconds since the epoch, since NumPy takes 2 µs to read a datetime and 5 µs to read one with a zone.
    """
    try:
        epoch = _EPOCH if values and values[0] and values[0].tzinfo else _EPOCH_NAIVE
        seconds = np.array([(value - epoch).total_seconds() for value in values])  # type: ignore[operator]
        times: NDArray[Any] = np.rint(seconds * 1e6).astype(np.int64).view("datetime64[us]")
        return times
    except TypeError:  # with a zone and without in one batch, or None
        micros = [_NAT if value is None else round(_since_epoch(value) * 1e6) for value in values]
        return np.array(micros, np.int64).view("datetime64[us]")


def _since_epoch(value: datetime) -> float:
    return (value - (_EPOCH if value.tzinfo else _EPOCH_NAIVE)).total_seconds()


_NAT = -(2**63)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_NAIVE = datetime(1970, 1, 1)
