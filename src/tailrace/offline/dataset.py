"""Training sets: labelled requests with the features that each would have been served with, at its own time.

    requests --page by page--> + views as of each request's time, + on-demand features --> a table, or a Parquet file

What is light stands here: `import tailrace` reads this file, and nothing of pyarrow or DuckDB.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from tailrace.errors import SourceError
from tailrace.offline.parquet_file import make_folder, write_tables
from tailrace.pipeline import Pipeline

if TYPE_CHECKING:
    import pyarrow as pa

    from tailrace.offline.database import DatabaseLimits
    from tailrace.offline.history import HistoryCounts
    from tailrace.offline.request_pages import RequestPages
    from tailrace.offline.training_set import TrainingSet

METADATA: Final = b"tailrace"
"""The key of a training set's metadata in the schema of its table or file: JSON of `DatasetInfo`."""

CELLS_MAX: Final = 1 << 25
"""Values of a page, of all columns together: 256 MiB where they are numbers."""

Progress = Callable[[str, int, int], None]
"""Called with what is done, how many rows of it, and of how many; 0 where that is not known."""


class DatasetInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a training set is made by. schema: the digest of the pipeline's request, response and views.

    features: the names of the model's inputs, in the pipeline's order. timeless: the views without a time column.
    """

    pipeline: str
    schema: str
    features: tuple[str, ...]
    timeless: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetReport:
    """What was written. left_out: requests without a value that every request has. views: what their histories held."""

    path: str
    pipeline: str
    schema: str
    rows: int
    left_out: int
    features: tuple[str, ...]
    timeless: tuple[str, ...]
    seconds: float
    views: dict[str, HistoryCounts] = field(default_factory=dict)


def dataset(
    pipeline: Pipeline, requests: Any, *, limits: DatabaseLimits | None = None, on_progress: Progress | None = None
) -> pa.Table:
    """Return labelled requests with the features that the pipeline would have been served with at their times.

    requests: a pyarrow table, a pandas DataFrame, or the path of a Parquet or CSV file: a column for each field of the
    request, and any others, labels among them, which are carried along. The table has the features first, named and in
    the order as the pipeline has them, then the other fields, then the rest; its schema's metadata is a `DatasetInfo`.
    limits: of memory and threads for reading the sources.
    Raises CompileError for mistakes in the pipeline, SetupError for one that names no `time`, SourceError for requests
    or sources that cannot be read. Paths of sources are relative to the pipeline's `base_dir`.
    """
    with _Making(pipeline, requests, limits, on_progress) as making:
        import pyarrow as pa  # that it is there is seen before

        tables = list(making.tables())
        for view in making.info.timeless:
            what = f"{view} has no time column: its rows are taken as they are now, for every request"
            warnings.warn(what, stacklevel=2)
    return pa.concat_tables(tables)


def write_dataset(
    pipeline: Pipeline,
    requests: Any,
    out: Path,
    *,
    limits: DatabaseLimits | None = None,
    on_progress: Progress | None = None,
) -> DatasetReport:
    """Write what `dataset` returns as a Parquet file, a page in memory at a time. The file is there whole, or not.

    Raises what `dataset` raises, and SourceError for a file that cannot be written.
    """
    began_s = time.monotonic()
    make_folder(out)
    with _Making(pipeline, requests, limits, on_progress) as making:
        rows = write_tables(making.tables(), out)
        return DatasetReport(
            path=str(out),
            pipeline=pipeline.name,
            schema=making.info.schema,
            rows=rows,
            left_out=making.left_out,
            features=making.info.features,
            timeless=making.info.timeless,
            seconds=time.monotonic() - began_s,
            views=making.training_set.counts(),
        )


class _Making:
    """A training set while it is made. left_out: of the requests so far."""

    def __init__(
        self, pipeline: Pipeline, requests: Any, limits: DatabaseLimits | None, on_progress: Progress | None
    ) -> None:
        from tailrace.offline.request_pages import PAGE_ROWS, RequestPages
        from tailrace.offline.training_set import TrainingSet
        from tailrace.release.settle import schema_of

        self._on_progress = on_progress or _tell_nothing
        self.training_set: TrainingSet = TrainingSet(
            pipeline, limits=limits, on_view=lambda view: self._on_progress(f"sorting {view}", 0, 0)
        )
        made = self.training_set
        page_rows = max(CELLS_MAX // (len(made.names) + len(made.wiring.fields)), 1)
        self._pages: RequestPages = RequestPages(
            requests, pipeline.request, made.time, made.wiring.expanded, page_rows=min(page_rows, PAGE_ROWS)
        )
        self._check_names()
        self.left_out = 0
        self.info = DatasetInfo(
            pipeline=pipeline.name, schema=schema_of(pipeline), features=made.names, timeless=made.timeless
        )

    def __enter__(self) -> _Making:
        self.training_set.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.training_set.__exit__(None, None, None)

    def tables(self) -> Iterator[pa.Table]:
        """Give the set, page by page. Raises SourceError where it has no rows."""
        done = 0
        for page in self._pages.pages():
            done += page.rows
            self.left_out = page.left_out
            if page.rows:
                yield self._table(page)
            self._on_progress("computing features", done + self.left_out, self._pages.total)
        if not done:
            what = "the requests have no rows" if not self.left_out else f"none of {self.left_out:,} requests is whole"
            raise SourceError(what, where=self._pages.where, next="give each field of the request a value in each row")

    def _table(self, page: Any) -> pa.Table:
        import pyarrow as pa

        columns: dict[str, Any] = {}
        for name, values in self.training_set.columns(page).items():
            is_text = values.dtype.kind == "O"
            columns[name] = page.table[name] if name in page.table.column_names else _arrow(values, is_text=is_text)
        columns |= {name: page.table[name] for name in page.table.column_names if name not in columns}
        table = pa.table(columns)
        return table.replace_schema_metadata({METADATA: msgspec.json.encode(self.info)})

    def _check_names(self) -> None:
        """Raise SourceError for a column of the requests that the pipeline computes."""
        if taken := sorted(set(self._pages.carried) & set(self.training_set.names)):
            raise SourceError(f"the requests have a column {taken[0]!r}, which the pipeline computes",
                              where=self._pages.where, next="drop it, or give it another name")  # fmt: skip


def _arrow(values: Any, *, is_text: bool) -> Any:
    import pyarrow as pa

    if values.ndim > 1:
        numbers = values.astype("float32") if values.dtype == "float16" else values  # which few read from Parquet
        return pa.FixedSizeListArray.from_arrays(pa.array(numbers.ravel()), values.shape[1])
    return pa.array(values, pa.string() if is_text else None)


def _tell_nothing(what: str, done: int, total: int) -> None:
    """Take the place of a progress bar."""
