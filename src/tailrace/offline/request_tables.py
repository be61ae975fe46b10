"""A table of requests wherever it is: in memory, or in a Parquet or CSV file, of which a page is read at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from tailrace.errors import SourceError
from tailrace.offline.arrow_columns import arrow_type
from tailrace.request.schema import FieldSpec

_BLOCK_BYTES: Final = 16 << 20
_NEXT: Final = "give a pyarrow table, a pandas DataFrame, or the path of a Parquet (.parquet) or CSV (.csv) file"


class RequestTables:
    """Reads a table page by page. names: of its columns. total: its rows, 0 where that is not known. where: for errors.

    specs: of the request's fields, whose types a CSV's columns are read as. Raises SourceError.
    """

    def __init__(self, requests: Any, specs: Mapping[str, FieldSpec]) -> None:
        _require_pyarrow()
        self._specs = specs
        self._table: Any = None
        self._path: Path | None = None
        self.where = "requests"
        self.total = 0
        if isinstance(requests, str | Path):
            self._path = Path(requests)
            self.where = str(requests)
            self.names = self._names_of_file(self._path)
        else:
            self._table = _in_memory(requests)
            self.names, self.total = self._table.column_names, self._table.num_rows
        if repeated := sorted({name for name in self.names if self.names.count(name) > 1}):
            raise SourceError(f"the requests have two columns {repeated[0]!r}", where=self.where, next="drop one")

    def pages(self, rows_max: int) -> Iterator[Any]:
        """Give the rows in order, at most so many at a time, as pyarrow tables."""
        import pyarrow as pa

        if self._table is not None:
            for begin in range(0, self._table.num_rows, rows_max):
                yield self._table.slice(begin, rows_max)
            return
        assert self._path is not None
        try:
            if self._is_csv(self._path):
                yield from self._csv_pages(self._path, rows_max)
                return
            from pyarrow import parquet

            with parquet.ParquetFile(self._path) as file:
                for batch in file.iter_batches(rows_max):
                    yield pa.Table.from_batches([batch])
        except (pa.ArrowException, OSError) as error:
            raise _cannot_read(self._path, error) from None

    def _names_of_file(self, path: Path) -> list[str]:
        import pyarrow as pa
        from pyarrow import csv, parquet

        if not path.is_file():
            raise SourceError("there is no such file", where=str(path), next="give a Parquet or CSV file of requests")
        try:
            if self._is_csv(path):
                with csv.open_csv(path) as reader:
                    return list(reader.schema.names)
            with parquet.ParquetFile(path) as file:
                self.total = file.metadata.num_rows
                return list(file.schema_arrow.names)
        except (pa.ArrowException, OSError) as error:
            raise _cannot_read(path, error) from None

    def _csv_pages(self, path: Path, rows_max: int) -> Iterator[Any]:
        import pyarrow as pa
        from pyarrow import csv

        types = {name: arrow_type(spec) for name, spec in self._specs.items()
                 if not spec.many and spec.dtype.kind in "fibO"}  # fmt: skip
        convert = csv.ConvertOptions(column_types=types, strings_can_be_null=False)
        batches: list[Any] = []
        rows = 0
        with csv.open_csv(path, csv.ReadOptions(block_size=_BLOCK_BYTES), convert_options=convert) as reader:
            for batch in reader:
                batches.append(batch)
                rows += batch.num_rows
                if rows >= rows_max:
                    yield pa.Table.from_batches(batches)
                    batches, rows = [], 0
        if rows:
            yield pa.Table.from_batches(batches)

    @staticmethod
    def _is_csv(path: Path) -> bool:
        return path.suffix.lower() == ".csv"


def _require_pyarrow() -> None:
    try:
        import pyarrow  # noqa: F401 - whether it is there
    except ImportError as error:
        raise SourceError(f"training sets need {error.name}", next="pip install 'tailrace[offline]'") from None


def _in_memory(requests: Any) -> Any:
    """Return a table in memory as a pyarrow table."""
    import pyarrow as pa

    if isinstance(requests, pa.Table):
        return requests
    if type(requests).__module__.partition(".")[0] == "pandas":
        return pa.Table.from_pandas(requests, preserve_index=False)
    raise SourceError(f"the requests are a {type(requests).__name__}", where="requests", next=_NEXT)


def _cannot_read(path: Path, error: BaseException) -> SourceError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return SourceError(f"the file cannot be read: {reason}", where=str(path), next="write it as Parquet or CSV")
