"""Labels that came later are checked against the log, and kept beside it; and are read again, the latest of each id."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

from tailrace.errors import SourceError
from tailrace.monitor.log.labels import SCHEMA, label_paths, labels_of, write_labels
from tailrace.monitor.log.listing import PassedOver
from tailrace.monitor.log.reader import LogReader
from tailrace.offline.database import DatabaseLimits
from tailrace.offline.log.database import LogDatabase, fault_of

EXAMPLES_MAX: Final = 5
_NEXT: Final = "give a Parquet or CSV file with the columns request_id and label, and time if it is known"


@dataclass(slots=True, kw_only=True)
class LabelsReport:
    """What came of a file of labels. path: where they are kept, "" where nothing is new.

    labels: that were read. kept: that are new. same: that are kept already. without: rows without an id or a label,
    which are left out. unknown: ids of which the log has no line; they are kept too, since its lines may be swept.
    contradicted: ids with several labels in the file, of which the latest is taken. changed: ids that had another label
    before, by which that is replaced. Of the last three some examples.
    """

    pipeline: str
    path: str = ""
    labels: int = 0
    kept: int = 0
    same: int = 0
    without: int = 0
    unknown: int = 0
    contradicted: int = 0
    changed: int = 0
    examples: dict[str, list[str]] = field(default_factory=dict)
    passed_over: list[PassedOver] = field(default_factory=list)


def keep_labels(
    root: Path,
    pipeline: str,
    file: Path,
    *,
    limits: DatabaseLimits | None = None,
    now_ns: int | None = None,
    on_progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> LabelsReport:
    """Check the labels of a file, and keep them beside the log of a pipeline.

    Raises SourceError for a file that has no labels, or one that cannot be written.
    """
    now_ns = now_ns or time.time_ns()
    on_progress("reading", 0, 0)
    given = read_label_file(file, now_ns)
    reader = LogReader(root, pipeline)
    report = LabelsReport(pipeline=pipeline, labels=given.num_rows, passed_over=reader.passed_over)
    try:
        with LogDatabase(reader, limits) as database:
            on_progress("checking", 0, 0)
            database.add("given", given)
            database.add("kept", kept_labels(root, pipeline))
            _check(database, report)
            if report.kept:
                new = database.ask("SELECT request_id, label, time FROM new ORDER BY time, request_id")
                report.path = str(write_labels(root, pipeline, (batch.cast(SCHEMA) for batch in new), now_ns))
    except duckdb.Error as error:
        raise fault_of(error) from None
    except OSError as error:
        what = f"the labels cannot be kept: {error.strerror or error}"
        raise SourceError(what, where=str(root), next="let this user write there") from None
    return report


def kept_labels(root: Path, pipeline: str) -> pa.Table:
    """Return all labels that are beside a log, in the order in which they were written.

    What has no time is of when its file was written. Raises SourceError for a file that cannot be read.
    """
    tables = []
    for path in label_paths(root, pipeline):
        try:
            tables.append(read_label_file(path, path.stat().st_mtime_ns).drop(["place"]))
        except FileNotFoundError:  # swept a moment ago
            continue
        except SourceError as error:
            raise SourceError(
                error.what, where=str(path), next="move the file away, and give its labels again"
            ) from None
    return _placed(pa.concat_tables(tables) if tables else SCHEMA.empty_table())


def read_label_file(path: Path, now_ns: int) -> pa.Table:
    """Return the labels of a Parquet or CSV file; what has no time is of now. Raises SourceError."""
    try:
        table = _csv(path) if path.suffix.lower() == ".csv" else pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise SourceError(f"labels cannot be read: {_reason(error)}", where=str(path), next=_NEXT) from None
    for name in ("request_id", "label"):
        if name not in table.column_names:
            has = ", ".join(map(repr, table.column_names[:EXAMPLES_MAX])) or "none"
            raise SourceError(f"there is no column {name!r}: it has {has}", where=str(path), next=_NEXT)
    try:
        return _placed(labels_of(table, now_ns))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        what = f"a column has other values than it should: {_reason(error)}"
        raise SourceError(
            what, where=str(path), next="labels are numbers, or true and false; times are times"
        ) from None


def latest(labels: pa.Table) -> pa.Table:
    """Return one label of each request, the latest: `request_id`, `label`."""
    with duckdb.connect() as connection:
        connection.register("labels", labels)
        found = connection.sql(
            "SELECT request_id, last(label ORDER BY time, place) AS label FROM labels "
            "WHERE request_id IS NOT NULL AND label IS NOT NULL GROUP BY request_id"
        )
        return found.to_arrow_table()


def _check(database: LogDatabase, report: LabelsReport) -> None:
    """Hold what is given against the log, and against what is kept; leave the table `new`."""
    one = "last(label ORDER BY time, place) AS label, max(time) AS time"
    database.make(
        "latest",
        f"SELECT request_id, {one}, count(*) AS rows, count(DISTINCT label) AS labels FROM given "
        "WHERE request_id IS NOT NULL AND label IS NOT NULL GROUP BY request_id",
    )
    database.make("before", f"SELECT request_id, {one} FROM kept GROUP BY request_id")
    database.make(
        "new",
        "SELECT latest.*, before.label AS old FROM latest LEFT JOIN before USING (request_id) "
        "WHERE before.label IS NULL OR (before.label != latest.label AND before.time <= latest.time)",
    )
    report.without = report.labels - _number(database, "SELECT coalesce(sum(rows), 0) FROM latest")
    report.kept = _number(database, "SELECT count(*) FROM new")
    report.same = _number(database, "SELECT count(*) FROM latest") - report.kept
    for what, query in (
        ("unknown", "SELECT request_id FROM latest ANTI JOIN log USING (request_id)"),
        ("contradicted", "SELECT request_id FROM latest WHERE labels > 1"),
        ("changed", "SELECT request_id FROM new WHERE old IS NOT NULL"),
    ):
        database.make("found", query)
        setattr(report, what, _number(database, "SELECT count(*) FROM found"))
        examples = database.ask(f"SELECT request_id FROM found ORDER BY 1 LIMIT {EXAMPLES_MAX}").read_all()
        report.examples[what] = examples["request_id"].to_pylist()


def _number(database: LogDatabase, query: str) -> int:
    return int(database.ask(query).read_all().column(0)[0].as_py())


def _placed(labels: pa.Table) -> pa.Table:
    """Return labels with their places: of two that are of one time the latter counts."""
    return labels.append_column("place", pa.array(np.arange(labels.num_rows)))


def _csv(path: Path) -> pa.Table:
    return csv.read_csv(path, convert_options=csv.ConvertOptions(column_types={"request_id": pa.string()}))


def _reason(error: Any) -> str:
    if isinstance(error, FileNotFoundError):  # of which Arrow tells the path alone
        return "there is no such file"
    return (str(error).splitlines() or [type(error).__name__])[0]
