"""Requests in a Parquet file: a column for each field, and each row as a caller would send it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from msgspec import inspect as shape

from tailrace.errors import SourceError
from tailrace.request.schema import Request, field_specs

if TYPE_CHECKING:
    import pyarrow as pa


INT_MAX: Final = 2**63


class ParquetRequests:
    """The rows of a file. types: of the requests, by whose fields they are read. rows: how many there are.

    Raises SourceError for a file that cannot be read, or has no rows.
    """

    def __init__(self, path: Path, types: Sequence[type[Request]]) -> None:
        self._path = path
        self._file = _open(path)
        self._nullable: dict[str, bool] = {}
        self._kinds: dict[str, set[type[shape.Type]]] = {}
        for each in types:
            for name, kinds in _kinds_of(each).items():
                self._kinds[name] = self._kinds.get(name, kinds) & kinds
            for field in field_specs(each).values():
                self._nullable[field.name] = self._nullable.get(field.name, False) or field.nullable
        self.rows: int = self._file.metadata.num_rows
        self.names: list[str] = self._file.schema_arrow.names

    def pages(self, page_rows: int) -> Iterator[pa.Table]:
        """Give the rows in order, so many at a time, with all of their columns. Raises SourceError for damaged ones."""
        import pyarrow as pa

        pages = self._file.iter_batches(page_rows)
        while True:
            try:
                page = next(pages, None)
            except (OSError, pa.ArrowException) as error:
                raise _unreadable(self._path, error) from None
            if page is None:
                return
            yield pa.Table.from_batches([page])

    def bodies(self, table: pa.Table, besides: Sequence[str] = ()) -> list[dict[str, Any]]:
        """Return each row of a page as a body: a null of a field that takes none was not sent.

        besides: columns that are no field and go along.
        """
        known = {**dict.fromkeys(besides, False), **self._nullable}
        names = [name for name in table.column_names if name in known]
        rows = zip(*(self._values(table.column(name), name) for name in names), strict=True) if names else (
            () for _ in range(table.num_rows)
        )  # fmt: skip
        return [
            {name: value for name, value in zip(names, row, strict=True) if value is not None or known[name]}
            for row in rows
        ]

    def _values(self, column: Any, name: str) -> list[Any]:
        """Return the values of a column as a caller would send them.

        Pandas makes floats of whole numbers with nulls, and warehouses have decimals, which are floats in JSON.
        """
        import pyarrow as pa

        values: list[Any] = column.to_pylist()
        kinds, is_decimal = self._kinds.get(name, set()), pa.types.is_decimal(column.type)
        if is_decimal and shape.FloatType in kinds:
            return [None if value is None else float(value) for value in values]
        if shape.IntType in kinds and (is_decimal or pa.types.is_floating(column.type)):
            return [None if value is None else _whole(value) for value in values]
        return values


def _whole(value: Any) -> int | float:
    """Return a whole number as one, any other as a float."""
    return int(value) if value % 1 == 0 and abs(value) < INT_MAX else float(value)


def _kinds_of(request_type: type[Request]) -> dict[str, set[type[shape.Type]]]:
    """Return the numbers that each field takes: whole ones, or any; nothing for one that takes other things too."""
    info = shape.type_info(request_type)
    assert isinstance(info, shape.StructType)
    found = {}
    for field in info.fields:
        kinds = {type(each) for each in _alternatives(field.type)} - {shape.NoneType}
        found[field.encode_name] = kinds if len(kinds) == 1 else set()
    return found


def _alternatives(info: shape.Type) -> Iterator[shape.Type]:
    """Give the types of which a value may be, without what is said about them."""
    match info:
        case shape.Metadata():
            yield from _alternatives(info.type)
        case shape.UnionType():
            for each in info.types:
                yield from _alternatives(each)
        case _:
            yield info


def _unreadable(path: Path, error: Exception) -> SourceError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return SourceError(
        f"cannot be read as Parquet: {reason}", where=str(path),
        next="give a Parquet file with a column for each field of the request",
    )  # fmt: skip


def _open(path: Path) -> Any:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, error) from None
    if not file.metadata.num_rows:
        raise SourceError("it has no rows", where=str(path), next="give a file with requests")
    return file
