"""Labels that come later are joined with what was predicted, each request once, and the latest label counts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import precision_score, recall_score, roc_auc_score

from log_writers import NOON_S, Now, Write, at, ns, writers
from tailrace.monitor.drift.labelled import join_outcomes, label_files, read_labels
from tailrace.monitor.drift.outcomes import LiveOutcomes
from tailrace.offline.log.labels import kept_labels, latest

HOUR_S = 3_600


@pytest.fixture
def write(tmp_path: Path) -> Iterator[Write]:
    """Return what makes a writer of a pipeline's log."""
    with writers(tmp_path, Now()) as write:
        yield write


def label(path: Path, labels: dict[str, Any], changed_s: float = NOON_S, **columns: Any) -> None:
    """Write a file of labels, as of a time."""
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table({"request_id": list(labels), "label": list(labels.values()), **columns}), path)
    os.utime(path, (changed_s, changed_s))


def joined(root: Path, *thresholds: float) -> LiveOutcomes:
    """Return the outcomes of the hour after noon."""
    labels, unread = read_labels(label_files(root, "fraud"))
    assert unread == []
    return join_outcomes(root, "fraud", labels, thresholds, since_ns=ns(0), until_ns=ns(HOUR_S))


def test_outcomes_are_those_of_scikit_learn(tmp_path: Path, write: Write) -> None:
    """Of several batches, half of them labelled: the area, and what each threshold and decision is worth."""
    rng = np.random.default_rng(1)
    scores = rng.uniform(size=2_000)
    came_true = rng.uniform(size=2_000) < scores
    files = write()
    for first in range(0, 2_000, 500):
        chosen = slice(first, first + 500)
        files.write([at(first, first, 500, scores=scores[chosen], decisions=(scores[chosen] > 0.7).astype(np.int64))])
    label(tmp_path / "labels" / "a.parquet", {f"r{each}": int(came_true[each]) for each in range(1_000)})
    found = joined(tmp_path, 0.5)
    assert (found.lines, found.labels, found.unknown_ids) == (2_000, 1_000, 0)
    card, known, true = found.scorecard, scores[:1_000], came_true[:1_000]
    assert card.auc == pytest.approx(roc_auc_score(true, known), abs=card.auc_error_max + 1e-9)
    assert card.thresholds[0].precision == pytest.approx(precision_score(true, known >= 0.5))
    block = next(each for each in found.decisions if each.decision == "block")
    assert block.precision == pytest.approx(precision_score(true, known > 0.7))
    assert block.recall == pytest.approx(recall_score(true, known > 0.7))


def test_latest_label_of_a_request_counts(tmp_path: Path, write: Write) -> None:
    """By its own time where it has one, else by the file's; what is neither 0 nor 1 is unknown."""
    write().write([at(0, 0, 4, scores=np.array([0.1, 0.2, 0.3, 0.9]))])
    moments = pa.array([2_000_000, 1_000_000], pa.timestamp("us", "UTC"))
    label(tmp_path / "labels" / "old.parquet", {"r0": "1", "r3": "1", "r2": "maybe", "gone": "1"}, NOON_S - 60)
    label(tmp_path / "labels" / "new.parquet", {"r0": True, "r1": False})
    label(tmp_path / "fraud" / "labels" / "own.parquet", {"r1": 1.0, "r3": 0.0}, time=moments)
    found = joined(tmp_path)
    assert (found.labels, found.unknown_ids) == (5, 1)
    assert (found.scorecard.rows, found.scorecard.positives, found.scorecard.unknown) == (3, 2, 1)
    assert found.scorecard.expected == pytest.approx(0.1 + 0.2 + 0.9)


def test_labels_are_those_that_a_training_set_takes(tmp_path: Path) -> None:
    """One rule for both: a label without a time is of when its file was written, and one that is none replaces none."""
    (tmp_path / "fraud").mkdir()
    noon = pa.array([int(NOON_S * 1e6)] * 3, pa.timestamp("us", "UTC"))
    label(tmp_path / "fraud" / "labels" / "told.parquet", {"r0": 0.0, "r1": 0.0, "r2": 1.0}, time=noon)
    later = {"r0": 1.0, "r1": None, "r2": float("nan")}
    label(tmp_path / "fraud" / "labels" / "timeless.parquet", later, NOON_S + 60)
    label(tmp_path / "labels" / "before.parquet", {"r1": 1.0, "r3": 1.0}, NOON_S - 60)
    labels, unread = read_labels(label_files(tmp_path, "fraud"))
    found = dict(zip(labels.ids.to_pylist(), labels.came_true.tolist(), strict=True))
    assert (found, unread) == ({"r0": 1.0, "r1": 0.0, "r2": 1.0, "r3": 1.0}, [])
    trained = latest(kept_labels(tmp_path, "fraud"))
    assert dict(zip(trained["request_id"].to_pylist(), trained["label"].to_pylist(), strict=True)) == found


def test_request_of_several_rows_is_not_joined(tmp_path: Path, write: Write) -> None:
    """Its label does not say which of its rows it is of; one that was sent twice is one."""
    files = write()
    rows: dict[str, Any] = {
        "scores": np.array([0.1, 0.2, 0.3]), "row_request": np.array([0, 0, 1]), "features": {}, "provenance": {},
        "event_ns": {}, "decisions": None, "degraded": np.zeros(3, np.uint8), "failed": np.zeros(3, np.bool_),
    }  # fmt: skip
    files.write([at(0, 0, 2, **rows)])
    files.write([at(1, 1, 1, scores=np.array([0.8]))])
    label(tmp_path / "labels" / "a.parquet", {"r0": 1, "r1": 1})
    found = joined(tmp_path)
    assert found.several_rows == 1
    assert (found.scorecard.rows, found.scorecard.expected) == (1, 0.8)


def test_line_weighs_as_many_as_it_stands_for(tmp_path: Path, write: Write) -> None:
    """Where one of four is logged, and all that failed: these are no larger part of the traffic than they were."""
    scores, shares = np.array([0.9, 0.8, 0.7, 0.6]), np.array([0.25, 0.25, 1.0, 1.0], np.float32)
    write().write([at(0, 0, 4, scores=scores, shares=shares, decisions=np.ones(4, np.int64))])
    label(tmp_path / "labels" / "a.parquet", {"r0": 1, "r1": 1, "r2": 0, "r3": 0})
    found = joined(tmp_path, 0.5)
    (block,) = found.decisions
    assert (block.rows, block.precision, block.recall) == (4, 0.8, 1.0)
    assert (found.scorecard.rows, found.scorecard.thresholds[0].precision) == (4, 0.8)


def test_files_that_are_none_cost_no_other(tmp_path: Path, write: Write) -> None:
    """One that is cut short, one without a column, one that is no Parquet: they are named, and the rest is read."""
    write().write([at(0, 0, 2, scores=np.array([0.1, 0.2]))])
    folder = tmp_path / "labels"
    label(folder / "good.parquet", {"r0": 1, "r1": 0})
    (folder / "cut.parquet").write_bytes((folder / "good.parquet").read_bytes()[:-20])
    (folder / "none.parquet").write_bytes(b"")
    pq.write_table(pa.table({"request_id": ["r0"]}), folder / "bare.parquet")
    labels, unread = read_labels(label_files(tmp_path, "fraud"))
    assert {path.name for path in unread} == {"cut.parquet", "none.parquet", "bare.parquet"}
    assert sorted(labels.ids.to_pylist()) == ["r0", "r1"]


def test_memory_is_bounded_by_the_newest_labels(tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more labels than are joined the oldest are left out, and counted; so is a row group that is too large."""
    monkeypatch.setattr("tailrace.monitor.drift.labelled.LABELS_MAX", 5)
    write().write([at(0, 0, 10, scores=np.linspace(0.1, 0.9, 10))])
    label(tmp_path / "labels" / "a.parquet", {f"r{each}": 1 for each in range(6)}, NOON_S - 60)
    label(tmp_path / "labels" / "b.parquet", {f"r{each}": 0 for each in range(6, 10)})
    found = joined(tmp_path)
    assert (found.labels, found.left_out, found.scorecard.positives) == (5, 5, 1)
    monkeypatch.setattr("tailrace.monitor.drift.labelled.GROUP_ROWS_MAX", 1)
    monkeypatch.setattr("tailrace.monitor.drift.labelled.LABELS_MAX", 1)
    assert [path.name for path in read_labels(label_files(tmp_path, "fraud"))[1]] == ["b.parquet", "a.parquet"]
