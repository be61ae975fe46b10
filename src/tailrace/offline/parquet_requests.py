"""Requests in a Parquet file: a column for each field, and each row as a caller would send it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tailrace.errors import SourceError
from tailrace.request.schema import Request, field_specs

if TYPE_CHECKING:
    import pyarrow as pa


class ParquetRequests:
    """The rows of a file. types: of the requests, by whose fields they are read. rows: how many there are.

    Raises SourceError for a file that cannot be read, or has no rows.
    """

    def __init__(self, path: Path, types: Sequence[type[Request]]) -> None:
        self._file = _open(path)
        self._nullable: dict[str, bool] = {}
        for each in types:
            for field in field_specs(each).values():
                self._nullable[field.name] = self._nullable.get(field.name, False) or field.nullable
        self.rows: int = self._file.metadata.num_rows
        self.names: list[str] = self._file.schema_arrow.names

    def pages(self, page_rows: int) -> Iterator[pa.Table]:
        """Give the rows in order, so many at a time, with all of their columns."""
        import pyarrow as pa

        for page in self._file.iter_batches(page_rows):
            yield pa.Table.from_batches([page])

    def bodies(self, table: pa.Table, besides: Sequence[str] = ()) -> list[dict[str, Any]]:
        """Return each row of a page as a body: a null of a field that takes none was not sent.

        besides: columns that are no field and go along.
        """
        known = {**dict.fromkeys(besides, False), **self._nullable}
        rows = table.select([name for name in table.column_names if name in known]).to_pylist()
        return [{name: value for name, value in row.items() if value is not None or known[name]} for row in rows]


def _open(path: Path) -> Any:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise SourceError(f"cannot be read as Parquet: {reason}", where=str(path),
                          next="give a Parquet file with a column for each field of the request") from None  # fmt: skip
    if not file.metadata.num_rows:
        raise SourceError("it has no rows", where=str(path), next="give a file with requests")
    return file
