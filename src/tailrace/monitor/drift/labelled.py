"""Labels that come later, joined by request id with the lines of the prediction log. Its memory is bounded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tailrace.monitor.drift.outcomes import DecisionOutcome, LiveOutcomes, Outcomes
from tailrace.monitor.log.labels import SCHEMA, label_paths, labels_of
from tailrace.monitor.log.reader import LogReader
from tailrace.monitor.log.tables import tables_of

LABELS_MAX: Final = 500_000
"""Labels that are joined, the newest; some 100 MB while it lasts."""
FILES_MAX: Final = 10_000
TOGETHER_ROWS: Final = 262_144
"""Lines that are looked for among the labels at once: each look makes a table of all of these."""
GROUP_ROWS_MAX: Final = 2_000_000
"""Of a file of labels, since a row group is read whole."""
_OTHER: Final = "-1"
"""The label of what is neither true nor untrue, as "maybe": it is known that nothing is known."""
_COLUMNS: Final = ("request_id", "row", "score", "decision", "share")


class LabelFile(NamedTuple):
    """A file of labels as it is now: one that is written anew is another one."""

    path: Path
    bytes: int
    changed_ns: int


class Labels(NamedTuple):
    """What came true, of each request once. came_true: 0 or 1, NaN for what is neither. left_out: the oldest ones."""

    ids: pa.StringArray
    came_true: NDArray[np.float64]
    left_out: int


def label_files(root: Path, pipeline: str) -> list[LabelFile]:
    """Return the files of labels of a log, the newest first: those of all pipelines, and the pipeline's own."""
    found = []
    for path in label_paths(root, pipeline)[: -FILES_MAX - 1 : -1]:
        with suppress(FileNotFoundError):  # swept a moment ago
            status = path.stat()
            found.append(LabelFile(path, status.st_size, status.st_mtime_ns))
    return found


def read_labels(files: Iterable[LabelFile]) -> tuple[Labels, list[Path]]:
    """Return the labels of files, the newest first, and the files that cannot be read.

    A file has `request_id`, `label` and, if it likes, `time`, by which a later label of a request is told, see
    `labels_of`; among equals it is that of the newer file.
    """
    tables, unread, rows, left_out = [], [], 0, 0
    for file in files:
        try:
            table, older = _newest(file, LABELS_MAX - rows)
        except (OSError, pa.ArrowException, KeyError) as error:
            if not isinstance(error, FileNotFoundError):
                unread.append(file.path)
            continue
        rows, left_out = rows + len(table), left_out + older
        tables.append(table)
    if not rows:
        return Labels(pa.array([], pa.string()), np.empty(0), left_out), unread
    whole = pa.concat_tables(tables[::-1])  # the oldest first, and the sort leaves equals as they are
    times = whole.column("time").cast(pa.int64()).to_numpy()
    whole = whole.take(pa.array(np.argsort(times, kind="stable")))
    whole = whole.append_column("place", pa.array(np.arange(len(whole))))
    last = whole.select(["request_id", "place"]).group_by("request_id").aggregate([("place", "max")])
    whole = whole.take(last.column("place_max"))
    labels = whole.column("label").to_numpy()
    came_true = np.where((labels == 0) | (labels == 1), labels, np.nan)
    return Labels(whole.column("request_id").combine_chunks(), came_true, left_out), unread


def join_outcomes(
    root: Path, pipeline: str, labels: Labels, thresholds: Sequence[float], *, since_ns: int, until_ns: int
) -> LiveOutcomes:
    """Return how good the predictions of a time were, by those whose outcome is known.

    A request of several rows is not joined: its label does not say which of them it is of. Of one that was sent twice
    the last prediction counts. Where a share of the requests is logged, a line weighs as many as it stands for.
    """
    count = len(labels.ids)
    weights = np.ones(count)
    scores, decisions = np.full(count, np.nan), np.full(count, -1, np.int64)
    is_found, has_several = np.zeros(count, np.bool_), np.zeros(count, np.bool_)
    names: dict[str, int] = {}
    lines = 0
    reader = LogReader(root, pipeline, since_ns=since_ns, until_ns=until_ns)
    for table in tables_of(reader.batches(_COLUMNS), TOGETHER_ROWS):
        lines += len(table)
        places = pc.fill_null(pc.index_in(table.column("request_id"), value_set=labels.ids), -1)
        places = np.asarray(places.to_numpy(), np.int64)
        known = np.flatnonzero(places >= 0)
        if not len(known):
            continue
        found, places = table.take(pa.array(known)), places[known]
        is_found[places] = True
        has_several[places[_integers(found.column("row")) > 0]] = True
        scores[places], weights[places] = _numbers(found, "score"), _weights(found)
        decisions[places] = _places(found, names)
    used = is_found & ~has_several
    outcomes = Outcomes(thresholds)
    outcomes.add(scores[used], labels.came_true[used], weights[used])
    return LiveOutcomes(
        ended_s=until_ns / 1e9,
        span_s=(until_ns - since_ns) / 1e9,
        lines=lines,
        labels=count,
        left_out=labels.left_out,
        unknown_ids=int(np.count_nonzero(~is_found)),
        several_rows=int(np.count_nonzero(has_several)),
        scorecard=outcomes.scorecard(),
        decisions=_of_decisions(names, decisions[used], labels.came_true[used], weights[used]),
    )


def _newest(file: LabelFile, rows_max: int) -> tuple[pa.Table, int]:
    """Return the last labels of a file, see `_told`, and how many there are before them. Raises KeyError."""
    with pq.ParquetFile(file.path) as opened:
        groups, rows = [], 0
        for group in range(opened.num_row_groups - 1, -1, -1):
            if rows >= rows_max:
                break
            groups.append(group)
            rows += opened.metadata.row_group(group).num_rows
        if rows > rows_max + GROUP_ROWS_MAX:
            raise pa.ArrowInvalid(f"{rows:,} labels lie together; write row groups of {GROUP_ROWS_MAX:,} at most")
        names = [name for name in SCHEMA.names if name in opened.schema_arrow.names]
        table = opened.read_row_groups(groups[::-1], columns=names)
        table = table.slice(max(len(table) - rows_max, 0))
        return _told(table, file.changed_ns), opened.metadata.num_rows - len(table)


def _told(table: pa.Table, written_ns: int) -> pa.Table:
    """Return the labels of a file, without rows that have no id or no label; a text other than 0 and 1 is `_OTHER`."""
    label = table.column("label")
    if pa.types.is_string(label.type) or pa.types.is_large_string(label.type):
        known = pc.is_in(label.cast(pa.string()), pa.array(["0", "1"]))
        told = pc.if_else(pc.or_(known, pc.is_null(label)), label, pa.scalar(_OTHER, label.type))
        table = table.set_column(table.column_names.index("label"), "label", told)
    found = labels_of(table, written_ns)
    return found.filter(pc.and_(pc.is_valid(found.column("request_id")), pc.is_valid(found.column("label"))))


def _numbers(table: pa.Table, name: str) -> NDArray[Any]:
    """Return a column of numbers; NaN for those that are none, or are not there."""
    if name not in table.schema.names or not pa.types.is_floating(table.schema.field(name).type):
        return np.full(len(table), np.nan)
    return np.asarray(pc.fill_null(table.column(name).cast(pa.float64()), float("nan")).to_numpy())


def _weights(table: pa.Table) -> NDArray[np.float64]:
    """Return how many requests each line stands for; 1 where that is not known."""
    shares = _numbers(table, "share")
    weights: NDArray[np.float64] = np.divide(1.0, shares, out=np.ones_like(shares), where=shares > 0)
    return weights


def _integers(column: pa.ChunkedArray) -> NDArray[np.int64]:
    return np.asarray(pc.fill_null(column, 0).to_numpy(), np.int64)


def _places(table: pa.Table, names: dict[str, int]) -> NDArray[np.int64]:
    """Return the place of each decision among the names, which grow by those that are new; -1 for none."""
    if "decision" not in table.schema.names:
        return np.full(len(table), -1, np.int64)
    encoded = table.column("decision").combine_chunks().dictionary_encode()
    own = [names.setdefault(name, len(names)) for name in encoded.dictionary.to_pylist()]
    return np.array([*own, -1], np.int64)[_integers_or(encoded.indices, -1)]


def _integers_or(column: pa.Array, missing: int) -> NDArray[np.int64]:
    return np.asarray(pc.fill_null(column, missing).to_numpy(zero_copy_only=False), np.int64)


def _of_decisions(
    names: dict[str, int], decisions: NDArray[np.int64], came_true: NDArray[np.float64], weights: NDArray[np.float64]
) -> tuple[DecisionOutcome, ...]:
    """Return how good each decision was."""
    known, true = ~np.isnan(came_true), came_true == 1
    positives = float(weights[true].sum())
    found = []
    for name, place in names.items():
        own = known & (decisions == place)
        whole, right = float(weights[own].sum()), float(weights[own & true].sum())
        found.append(
            DecisionOutcome(
                decision=name,
                rows=int(np.count_nonzero(own)),
                precision=right / whole if whole else None,
                recall=right / positives if positives else None,
            )
        )
    return tuple(found)
