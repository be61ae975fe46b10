"""Arrow columns as the arrays that requests and events are while serving: of the field's type, nulls as there.

pyarrow is imported where it is used: a pipeline is declared without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tailrace.errors import SourceError
from tailrace.features.events import TIME_NS_MAX
from tailrace.request.schema import FieldSpec

if TYPE_CHECKING:
    import pyarrow as pa


def arrow_type(spec: FieldSpec) -> Any:
    """Return the Arrow type of a field's column; None for one that holds other than numbers, times, texts, vectors."""
    import pyarrow as pa

    if spec.width:
        return pa.list_(pa.float64(), spec.width)
    types = {"f": pa.float64(), "i": pa.int64(), "b": pa.bool_(), "O": pa.string()}
    if spec.dtype.kind == "M":
        return pa.date32() if spec.dtype == np.dtype("datetime64[D]") else pa.timestamp("us", tz="UTC")
    return types.get(spec.dtype.kind)


def cast_field(column: pa.ChunkedArray, name: str, spec: FieldSpec, where: str) -> pa.ChunkedArray:
    """Return a column as the type of its field; times without a zone are UTC. Raises SourceError where it is none."""
    import pyarrow as pa

    wanted, kind = arrow_type(spec), column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    try:
        if spec.dtype.kind == "M" and pa.types.is_timestamp(wanted):
            from tailrace.monitor.log.labels import cast_times

            return cast_times(column, wanted)
        if spec.dtype.kind != "O":
            return column.cast(wanted)
        if pa.types.is_floating(kind):  # pandas makes floats of whole numbers with nulls
            column = column.cast(pa.int64())
        is_simple = any(test(column.type) for test in (pa.types.is_integer, pa.types.is_large_string, pa.types.is_null))
        return column.cast(wanted) if is_simple else column
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        reason = str(error).splitlines()[0]
        what = f"the column {name!r}, {kind}, cannot be the request's {spec.dtype.name}: {reason}"
        raise SourceError(what, where=where, next="cast it where the file is made") from None


def to_array(column: Any, spec: FieldSpec) -> NDArray[Any]:
    """Return a column, cast to its field, as an array, read-only: (rows,), NaN, NaT and "" where it is null.

    Of vectors (rows, width).
    """
    if spec.width:
        array = vector_array(column, spec.width, spec.dtype, np.nan)
        array.flags.writeable = False
        return array
    if spec.dtype.kind == "O":
        array = text_array(column)
    elif spec.dtype.kind == "f":
        array = np.asarray(column.to_numpy(), np.float64)
    else:
        array = np.asarray(column.to_numpy()).astype(spec.dtype, copy=False)
    array.flags.writeable = False
    return array


def vector_array(column: Any, width: int, dtype: np.dtype[Any], default: Any) -> NDArray[Any]:
    """Return a column of lists of one length as an array, (rows, width); the default where it is null."""
    import pyarrow.compute as pc

    valid = np.asarray(column.is_valid().to_numpy(zero_copy_only=False) if column.null_count else np.True_)
    values = pc.list_flatten(column.drop_null() if column.null_count else column).to_numpy()
    array = np.empty((len(column), width), dtype)
    array[:] = default
    array[valid if column.null_count else slice(None)] = np.asarray(values).reshape(-1, width)
    return array


def text_array(column: Any) -> NDArray[Any]:
    """Return a column of texts, or of other objects, as an array of objects; "" where it is null."""
    values = column.to_pylist()
    array = np.empty(len(values), object)
    array[:] = ["" if value is None else value for value in values] if column.null_count else values
    return array


def times_ns(column: Any) -> NDArray[np.int64]:
    """Return a column of times in ns since the epoch, those too far from it as `event_times` takes them; in order."""
    import pyarrow as pa

    micros = column.cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_numpy()
    limit_us = TIME_NS_MAX // 1_000  # 9999-12-31, as "no end", would overflow and come first
    bounded: NDArray[np.int64] = np.minimum(np.maximum(np.asarray(micros, np.int64), -limit_us), limit_us)
    return bounded * 1_000
