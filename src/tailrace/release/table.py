"""Tables of feature values, read from a file or a frame."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from tailrace.errors import ModelPackageError

_TRAINING_SET: Final = b"tailrace"
"""The key of a training set's metadata; see offline/dataset.py."""


class _Features(msgspec.Struct):
    """What is read of it."""

    features: tuple[str, ...]


def read_table(data: Any) -> Any:
    """Return a pyarrow table of a pyarrow table, a pandas DataFrame, or the path of a Parquet or CSV file.

    Raises ModelPackageError for anything else, a missing or unreadable file, no rows, or a column named twice.
    """
    import pyarrow as pa

    if isinstance(data, str | Path):
        table, where = _read_file(Path(data)), str(data)
    elif isinstance(data, pa.Table):
        table, where = data, "data"
    elif type(data).__module__.partition(".")[0] == "pandas":
        table, where = pa.Table.from_pandas(data, preserve_index=False), "data"
    else:
        raise ModelPackageError(
            f"the data is a {type(data).__name__}",
            where="data",
            next="give a pyarrow table, a pandas DataFrame, or the path of a Parquet or CSV file",
        )
    if table.num_rows == 0:
        raise ModelPackageError("the data has no rows", where=where, next="give the rows the model was trained on")
    repeated = sorted({name for name in table.column_names if table.column_names.count(name) > 1})
    if repeated:
        raise ModelPackageError(f"the data has two columns {repeated[0]!r}", where=where, next="drop one of them")
    return table


def spread_rows(table: Any, rows_max: int) -> Any:
    """Return at most `rows_max` rows, evenly spread over the table."""
    if table.num_rows <= rows_max:
        return table
    return table.take(np.linspace(0, table.num_rows - 1, rows_max).astype(np.int64))


def column_dtype(table: Any, name: str) -> str:
    """Return the tensor dtype for a column: "string", "int64", "bool" or "float32"; of a vector that of its numbers.

    Raises ModelPackageError for a column that is neither a number, a truth value nor a text.
    """
    import pyarrow as pa

    kind = table.schema.field(name).type
    if pa.types.is_dictionary(kind) or column_width(table, name):
        kind = kind.value_type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "string"
    if pa.types.is_boolean(kind):
        return "bool"
    if pa.types.is_integer(kind):
        return "int64"
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "float32"
    raise ModelPackageError(
        f"the column has the type {kind}, which no model input has",
        where=f"data.{name}",
        next="turn it into a number or a text, or drop it if it is no feature",
    )


def column_width(table: Any, name: str) -> int:
    """Return the length of the vectors in a column, lists of floats of one length; 0 for any other column.

    Raises ModelPackageError for lists of several lengths, of nothing, or with nulls.
    """
    import pyarrow as pa

    column = table.column(name)
    if not (
        pa.types.is_fixed_size_list(column.type) or pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
    ):
        return 0
    import pyarrow.compute as pc

    lengths = pc.unique(pc.list_value_length(column)).to_pylist()
    if len(lengths) != 1 or not lengths[0] or pc.list_flatten(column).null_count:
        raise ModelPackageError(
            f"vectors are of one length and without nulls; here they are {sorted(lengths, key=str)[:5]} long",
            where=f"data.{name}",
            next="drop the rows without a whole vector",
        )
    return int(lengths[0])


def to_vectors(table: Any, name: str) -> NDArray[np.float64]:
    """Return a column of vectors as (rows, width)."""
    import pyarrow as pa
    import pyarrow.compute as pc

    values = pc.list_flatten(table.column(name)).cast(pa.float64(), safe=False)
    return np.asarray(values.to_numpy(), np.float64).reshape(table.num_rows, column_width(table, name))


def to_numbers(table: Any, name: str) -> NDArray[np.float64]:
    """Return one numeric or boolean column as float64, with NaN for null."""
    import pyarrow as pa

    column = table.column(name)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return np.asarray(column.cast(pa.float64(), safe=False).to_numpy(), np.float64)


def holds_float32(table: Any, name: str) -> bool:
    """Return whether float32 has every value of a column; True for a text."""
    if column_dtype(table, name) == "string":
        return True
    values = to_numbers(table, name)
    with np.errstate(over="ignore"):
        return bool(((values.astype(np.float32) == values) | np.isnan(values)).all())


def _read_file(path: Path) -> Any:
    import pyarrow as pa

    if not path.is_file():
        raise ModelPackageError("there is no such file", where=str(path), next="give a Parquet or CSV file")
    try:
        if path.suffix.lower() == ".csv":
            from pyarrow import csv

            return csv.read_csv(path)
        from pyarrow import parquet

        return parquet.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise ModelPackageError(
            f"the file cannot be read: {error}", where=str(path), next="give a Parquet (.parquet) or CSV (.csv) file"
        ) from error


def feature_columns(table: Any, target: str | None) -> Any:
    """Return a training set without what is neither feature nor target; any other table as it is.

    A training set names its features in its metadata (`tailrace dataset`). Labels and times that go along must not be
    taken for a model's input.
    """
    stored = (table.schema.metadata or {}).get(_TRAINING_SET)
    if stored is None:
        return table
    try:
        features = msgspec.json.decode(stored, type=_Features).features
    except msgspec.DecodeError:
        return table
    kept = [name for name in table.column_names if name in features or name == target]
    return table.select(kept)


def read_outcomes(table: Any, target: str) -> NDArray[Any]:
    """Return the target column, as objects; numbers that are whole become integers.

    Raises ModelPackageError for a null.
    """
    column = table.column(target)
    values = np.array(column.to_pylist(), object)
    if any(value is None for value in values):
        raise ModelPackageError(
            f"{column.null_count} outcomes are null", where=f"data.{target}", next="drop the rows without an outcome"
        )
    return np.array([int(v) if isinstance(v, bool | float) and float(v).is_integer() else v for v in values], object)
