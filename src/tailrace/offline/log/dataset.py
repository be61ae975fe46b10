"""Training sets of the prediction log: features as they were served, and the labels that came later.

    lines of the log --page by page--> features, + the request's other fields, + labels by request id --> a file

Nothing is computed again, and nothing is joined by time. So there is no skew: the model is trained on what it was
asked. Columns have the names, the order and the types that `offline/dataset.py` gives them.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tailrace.batch import Provenance
from tailrace.compile.resolve import wire
from tailrace.compile.wiring import Origin, Wire
from tailrace.errors import CompileError, SourceError
from tailrace.monitor.log.lines import FileLines
from tailrace.monitor.log.listing import PassedOver
from tailrace.monitor.log.reader import LogReader
from tailrace.monitor.redacting import redacted_fields
from tailrace.offline.arrow_columns import arrow_type
from tailrace.offline.dataset import METADATA, DatasetInfo, Progress
from tailrace.offline.log.labels import kept_labels, latest, read_label_file
from tailrace.offline.log.requests import RequestColumns
from tailrace.offline.parquet_file import make_folder, write_tables
from tailrace.offline.training_set import views_used
from tailrace.pipeline import Pipeline
from tailrace.release.settle import schema_of

PAGE_ROWS: Final = 65_536
_LINES: Final = ("time", "request_id", "release", "row", "request", "failed", "share", "features", "provenance")
_CARRIED: Final = {"request_id": "request_id", "time": "answered", "release": "release"}
"""What goes along of a line, and what its column is called: `log_…` where the request has such a field."""
_LABEL: Final = "label"
_WEIGHT: Final = "weight"
"""How many requests a line stands for, where a share of them is logged."""
_FRESH: Final = Provenance.FRESH.name.lower()
OTHER_FEATURES: Final = "of a release that has other features"
NO_FEATURES: Final = "without features or a score"
NOT_FRESH: Final = "with features that were not fresh"
NO_LABEL: Final = "without a label"
NO_REQUEST: Final = "whose request is none of the pipeline's"


@dataclass(frozen=True, slots=True, kw_only=True)
class LogChoice:
    """Which lines of a log make a training set, and what of them.

    labels: a file of them, in place of those that are kept beside the log. fresh: only lines of which every view was
    fresh. unlabelled: those without a label, too. features_only: without the other fields of requests. since_ns,
    until_ns: of answers, since the epoch.
    """

    labels: Path | None = None
    fresh: bool = False
    unlabelled: bool = False
    features_only: bool = False
    since_ns: int | None = None
    until_ns: int | None = None


@dataclass(slots=True, kw_only=True)
class LogDatasetReport:
    """What was written. left_out: lines, by why. labelled: those with a label; None where there are no labels at all.

    redacted: fields of requests that the log does not have.
    """

    path: str
    pipeline: str
    schema: str
    rows: int = 0
    labelled: int | None = None
    features: tuple[str, ...] = ()
    redacted: tuple[str, ...] = ()
    left_out: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    passed_over: list[PassedOver] = field(default_factory=list)


def write_log_dataset(
    pipeline: Pipeline, root: Path, out: Path, choice: LogChoice, on_progress: Progress
) -> LogDatasetReport:
    """Write a training set of a pipeline's log as a Parquet file, a page in memory at a time, and all labels.

    Raises CompileError for mistakes in the pipeline, SourceError where no line can be used, or a file not be read or
    written.
    """
    began_s = time.monotonic()
    make_folder(out)
    making = _Making(pipeline, root, choice, on_progress)
    tables = making.tables()
    first = next(tables, None)
    if first is None:
        raise making.nothing()
    report = making.report
    report.path = str(out)
    report.rows = write_tables(_alike(first, tables), out)
    report.left_out = dict(making.left_out)
    report.seconds = time.monotonic() - began_s
    return report


class _Making:
    """A training set while it is made."""

    def __init__(self, pipeline: Pipeline, root: Path, choice: LogChoice, on_progress: Progress) -> None:
        self._wiring = wiring = wire(pipeline)
        if wiring.problems:
            raise CompileError(pipeline.name, wiring.problems)
        self._root, self._choice, self._on_progress = root, choice, on_progress
        self._names = tuple(wiring.features)
        self._views = [wiring.views[place].__name__ for place in views_used(wiring)]
        redacted = redacted_fields(pipeline.request)
        self._requests = RequestColumns(pipeline.request, wiring.expanded, redacted | set(self._names))
        self._types = {name: self._type_of(each) for name, each in wiring.features.items()}
        carried = _CARRIED if wiring.expanded is None else _CARRIED | {"row": "row"}
        self._carried = {name: self._free(column) for name, column in carried.items()}
        self._check_features(redacted)
        self._labels = self._read_labels(pipeline.name)
        self._reader = LogReader(root, pipeline.name, since_ns=choice.since_ns, until_ns=choice.until_ns)
        shares = (batch.column(0) for batch in self._reader.batches(["share"]) if batch.num_columns)
        self._weighs = any((least := pc.min(each).as_py()) is not None and least < 1 for each in shares)
        self.left_out: Counter[str] = Counter()
        info = DatasetInfo(pipeline=pipeline.name, schema=schema_of(pipeline), features=self._names)
        self._metadata = {METADATA: msgspec.json.encode(info)}
        self.report = LogDatasetReport(
            path="", pipeline=pipeline.name, schema=info.schema, features=self._names,
            labelled=None if self._labels is None else 0, redacted=tuple(sorted(redacted)),
            passed_over=self._reader.passed_over,
        )  # fmt: skip

    def tables(self) -> Iterator[pa.Table]:
        """Give the set, page by page."""
        done, total = 0, sum(span.rows for lines in self._reader.files for span in lines.spans)
        for lines in self._reader.files:
            for page in self._pages(lines):
                done += page.num_rows
                table = self._table(page)
                if table.num_rows:
                    yield table
                self._on_progress("reading the log", done, total)

    def nothing(self) -> SourceError:
        """Return what is wrong where there is no row."""
        why = ", ".join(f"{count:,} {why}" for why, count in self.left_out.items()) or "it has no lines"
        return SourceError(f"no line of the log can be used: {why}", where=str(self._root),
                           next="see what there is with tailrace logs, and ask for more")  # fmt: skip

    def _pages(self, lines: FileLines) -> Iterator[pa.Table]:
        """Give the lines of a file in pages; those that lack a feature are counted."""
        has = {each.name for each in lines.schema.field("features").type.fields} if _has_features(lines) else set()
        for batches in _together(self._reader.batches_of(lines, _LINES)):
            page = pa.Table.from_batches(batches)
            if has >= set(self._names):
                yield page
            else:
                self.left_out[OTHER_FEATURES] += page.num_rows

    def _table(self, page: pa.Table) -> pa.Table:
        """Return what is used of a page, as columns of the set."""
        page = page.combine_chunks()
        labels = self._labels_of(page)
        requests = None if self._choice.features_only else self._requests.columns(page)
        keep = self._kept(page, labels, None if requests is None else requests.is_whole)
        features = dict(zip(_names_of(page["features"]), page["features"].combine_chunks().flatten(), strict=True))
        columns: dict[str, Any] = {name: _cast(features[name], self._types[name]) for name in self._names}
        if requests is not None:
            columns |= requests.columns
        columns |= {name: page[own] for own, name in self._carried.items() if own in page.column_names}
        if self._weighs:
            columns[self._free(_WEIGHT)] = _weights(page)
        if labels is not None:
            columns[self._free(_LABEL)] = labels
        table = pa.table(columns).filter(pa.array(keep))
        if labels is not None:
            assert self.report.labelled is not None
            self.report.labelled += table.num_rows - table.column(self._free(_LABEL)).null_count
        return table.replace_schema_metadata(self._metadata)

    def _kept(self, page: pa.Table, labels: pa.Array | None, is_request: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
        """Return which lines are used; the others are counted by the first reason that there is."""
        keep = np.ones(page.num_rows, np.bool_)

        def leave_out(which: NDArray[np.bool_], why: str) -> None:
            if count := int(np.count_nonzero(which & keep)):
                self.left_out[why] += count
                keep[which] = False

        leave_out(_flags(pc.is_null(page["features"])) | _flags(pc.fill_null(page["failed"], True)), NO_FEATURES)
        if self._choice.fresh and self._views:
            provenance = page["provenance"].combine_chunks()
            views = dict(zip(_names_of(page["provenance"]), provenance.flatten(), strict=True))
            for view in self._views:
                leave_out(_flags(pc.fill_null(pc.not_equal(views[view], _FRESH), True)), NOT_FRESH)
        if is_request is not None:
            leave_out(~is_request, NO_REQUEST)
        if labels is not None and not self._choice.unlabelled:
            leave_out(_flags(pc.is_null(labels)), NO_LABEL)
        return keep

    def _labels_of(self, page: pa.Table) -> pa.Array | None:
        if self._labels is None:
            return None
        places = pc.index_in(page["request_id"], value_set=self._labels["request_id"].combine_chunks(), skip_nulls=True)
        return self._labels["label"].combine_chunks().take(places.combine_chunks())

    def _read_labels(self, pipeline: str) -> pa.Table | None:
        """Return a label of each request; None where there are none, and no file is given.

        A label does not say of which of a request's rows it is.
        """
        given = self._choice.labels
        if self._wiring.expanded is not None:
            if given is None:
                return None
            raise SourceError("a label is of a request, and these make many rows", where=str(given),
                              next="leave --labels out, and join by request_id and row")  # fmt: skip
        found = latest(kept_labels(self._root, pipeline) if given is None else read_label_file(given, time.time_ns()))
        if not found.num_rows and given is None:
            return None
        labels = found["label"]
        is_whole = pc.all(pc.equal(labels, pc.floor(labels))).as_py()
        return found.set_column(1, "label", labels.cast(pa.int64()) if is_whole else labels)

    def _check_features(self, redacted: frozenset[str]) -> None:
        """Raise SourceError for a feature that the log does not keep."""
        for name, each in self._wiring.features.items():
            if each.origin is Origin.REQUEST and each.name in redacted:
                raise SourceError(f"the feature {name!r} is redacted: the log does not have it", where=str(self._root),
                                  next="train on what `tailrace dataset --requests` makes")  # fmt: skip

    def _type_of(self, wired: Wire) -> pa.DataType | None:
        """Return the type that a feature's column has in a training set; None for that of the log."""
        if wired.origin is Origin.REQUEST:
            spec = self._wiring.fields[wired.name]
            return arrow_type(spec)
        if wired.dtype is None:
            return None
        if wired.is_text:
            return pa.string()
        dtype = np.dtype(np.float32) if wired.dtype == np.float16 else wired.dtype
        kind = pa.from_numpy_dtype(dtype.base)
        return kind if wired.width == 1 else pa.list_(kind, wired.width)

    def _free(self, name: str) -> str:
        """Return a name that neither a feature nor a field of the request has."""
        return f"log_{name}" if name in self._names or name in self._wiring.fields else name


def _has_features(lines: FileLines) -> bool:
    return "features" in lines.schema.names


def _names_of(structs: pa.ChunkedArray) -> list[str]:
    return [each.name for each in structs.type.fields]


def _flags(column: Any) -> NDArray[np.bool_]:
    return np.asarray(
        column.to_numpy(zero_copy_only=False) if isinstance(column, pa.Array) else column.to_numpy(), bool
    )


def _weights(page: pa.Table) -> Any:
    """Return how many requests each line stands for; one of an older log stands for itself."""
    if "share" not in page.column_names:
        return pa.array(np.ones(page.num_rows))
    return pc.divide(1.0, pc.fill_null(page["share"].cast(pa.float64()), 1.0))


def _cast(column: Any, kind: pa.DataType | None) -> Any:
    return column if kind is None or column.type.equals(kind) else column.cast(kind)


def _together(batches: Iterator[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
    """Give lines in pages, of which none ends within a request."""
    held: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        if rows >= PAGE_ROWS and not pc.fill_null(batch.column("row"), 0)[0].as_py():
            yield held
            held, rows = [], 0
        held.append(batch)
        rows += batch.num_rows
    if held:
        yield held


def _alike(first: pa.Table, others: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Give tables with the types of the first one."""
    yield first
    for table in others:
        yield table if table.schema.equals(first.schema) else table.cast(first.schema)
