"""Rows of feature values: as the data has them, for the original, and as the conversion is fed with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tailrace.errors import ModelPackageError
from tailrace.inference.signature import TensorSpec
from tailrace.release.table import column_dtype, column_width, to_numbers, to_vectors

Specs = tuple[TensorSpec, ...]


@dataclass(frozen=True, slots=True)
class Rows:
    """Feature values by name: numbers and truth values of the data's own type, texts as objects.

    A null is NaN, or in a text "", where the model knows no null of its own.
    """

    columns: Mapping[str, NDArray[Any]]  # (rows,), or (rows, width) of vectors

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def take(self, index: NDArray[Any]) -> Rows:
        """Return the rows at these places."""
        return Rows({name: column[index] for name, column in self.columns.items()})

    def matrix(self) -> NDArray[np.float64]:
        """Return all columns as one float64 matrix."""
        return np.column_stack([column.astype(np.float64) for column in self.columns.values()])

    def frame(self) -> Any:
        """Return a pandas DataFrame of the columns, each of its own type."""
        import pandas  # type: ignore[import-untyped]

        return pandas.DataFrame(dict(self.columns))

    def feeds(self, specs: Specs) -> dict[str, NDArray[Any]]:
        """Return an array for each input, (rows, features) in C order.

        Raises ModelPackageError for a column whose values an input cannot hold.
        """
        return {
            spec.name: np.ascontiguousarray(
                np.column_stack([_fit(self.columns[name], name, spec) for name in spec.features])
            )
            for spec in specs
        }

    def known(self, specs: Specs) -> NDArray[np.bool_]:
        """Return which rows hold no NaN in an input of floats."""
        columns = [self.columns[name].astype(np.float64) for name in float_features(specs)]
        nulls = [np.isnan(column).reshape(len(self), -1).any(axis=1) for column in columns]
        return ~np.any(nulls, axis=0) if nulls else np.ones(len(self), np.bool_)

    def rounded(self, specs: Specs, steps: int = 0) -> Rows:
        """Return the rows with the values of float32 inputs as float32, moved by so many float32 up, or down."""
        columns = dict(self.columns)
        for spec in specs:
            for name in spec.features if spec.dtype == "float32" else ():
                near = to_float32(columns[name])
                for _ in range(abs(steps)):
                    near = np.nextafter(near, np.float32(np.copysign(np.inf, steps)))
                columns[name] = near
        return Rows(columns)

    def with_value(self, specs: Specs, value: float) -> Rows:
        """Return some rows with this value: in one feature each, and the last row in all; none without floats."""
        names = float_features(specs)
        rows = self.take(np.arange(len(names) + 1 if names else 0) % len(self))
        columns = dict(rows.columns)
        for name in names:
            columns[name] = columns[name] + np.float32(0)  # a copy that can hold NaN
        for place, name in enumerate(names):
            columns[name][[place, -1]] = value
        return Rows(columns)

    def ends(self) -> Rows:
        """Return three rows: every number's minimum, maximum and median; a text's first, last and middle."""
        columns: dict[str, NDArray[Any]] = {}
        for name, column in self.columns.items():
            if column.ndim == 2:
                columns[name] = np.sort(column[~np.isnan(column).any(axis=1)], axis=0)[[0, -1, len(column) // 2]]
                continue
            known = column[~np.isnan(column)] if column.dtype.kind == "f" else column
            known = _texts(known) if column.dtype.kind == "O" else known
            known = np.sort(known if len(known) else np.zeros(1, column.dtype))
            columns[name] = known[[0, -1, len(known) // 2]]
        return Rows(columns)


def read_rows(table: Any, names: tuple[str, ...], nulls: Mapping[str, Any] = MappingProxyType({})) -> Rows:
    """Return some columns of a pyarrow table. nulls: what a null is in the texts where the model knows one."""
    return Rows({name: _read_column(table, name, nulls.get(name, "")) for name in names})


def float_features(specs: Specs) -> list[str]:
    """Return the features of the inputs that hold floats."""
    return [name for spec in specs if spec.dtype.startswith("float") for name in spec.features]


def to_float32(column: NDArray[Any]) -> NDArray[np.float32]:
    """Return numbers as float32; those beyond it are infinite."""
    with np.errstate(over="ignore"):
        return column.astype(np.float32)


def _texts(column: NDArray[Any]) -> NDArray[Any]:
    """Return texts as a model is fed with them: "" for a null."""
    return np.array([text if isinstance(text, str) else "" for text in column], object)


def _read_column(table: Any, name: str, null: Any) -> NDArray[Any]:
    import pyarrow as pa

    if column_width(table, name):
        return to_vectors(table, name)
    kind, column = column_dtype(table, name), table.column(name)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if kind == "string":
        return np.array([null if text is None else text for text in column.to_pylist()], object)
    if pa.types.is_float32(column.type):
        return np.asarray(column.to_numpy(), np.float32)
    return to_numbers(table, name) if kind == "float32" or column.null_count else np.asarray(column.to_numpy())


def _fit(column: NDArray[Any], name: str, spec: TensorSpec) -> NDArray[Any]:
    """Return one column as an input's dtype. Raises ModelPackageError where its values would become other values."""
    where, text = f"data.{name}", column.dtype.kind == "O"
    if text != (spec.dtype == "string"):
        raise ModelPackageError(
            f"the column holds {'text' if text else column.dtype}; the model's input {spec.name!r} takes {spec.dtype}",
            where=where,
            next="give the column as the model was trained on it; categories are encoded in the feature view or in a "
            "scikit-learn pipeline",
        )
    if text:
        return _texts(column)
    if spec.dtype.startswith("float"):
        return to_float32(column) if spec.dtype == "float32" else column.astype(np.float64)
    nulls = int(np.isnan(column).sum()) if column.dtype.kind == "f" else 0
    if nulls:
        raise ModelPackageError(
            f"{nulls} values are null, which an input of dtype {spec.dtype} cannot hold",
            where=where,
            next="fill them as the feature's default does in serving",
        )
    with np.errstate(invalid="ignore"):
        cast = column.astype(spec.numpy_dtype)
    other = np.flatnonzero(cast != column)
    if len(other):
        raise ModelPackageError(
            f"{len(other)} values, {column[other[0]]} the first, are none of the model's input {spec.name!r}, which "
            f"takes {spec.dtype}",
            where=where,
            next=f"export the model with a float input, or give the column as {spec.dtype}",
        )
    return cast
