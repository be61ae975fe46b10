"""Labels that come later: checked against the log, kept beside it, and read again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner

from log_writers import NOON_S, Now, at, writers
from tailrace.cli.labels import labels
from tailrace.errors import SourceError
from tailrace.monitor.log.sweep import sweep_log
from tailrace.offline.log.labels import keep_labels, kept_labels, latest

app = typer.Typer()
app.command()(labels)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Path]:
    """Return a log of ten requests, in a whole file and a draft."""
    now = Now()
    with writers(tmp_path / "log", now) as write:
        files = write()
        files.write([at(0, 0, 5)])
        files.seal()
        now.s += 1
        files.write([at(1, 5, 5)])
        yield tmp_path / "log"


def known(log: Path) -> dict[str, float]:
    """Return the labels that count."""
    return {line["request_id"]: line["label"] for line in latest(kept_labels(log, "fraud")).to_pylist()}


def file_of(folder: Path, **columns: Any) -> Path:
    """Return a Parquet file of columns."""
    path = folder / "labels.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def test_labels_are_kept_and_what_is_odd_is_counted(log: Path, tmp_path: Path) -> None:
    """Rows without a label, ids that are not known, labels that contradict each other."""
    ids = ["r1", "r2", "r2", "r3", None, "r4", "elsewhere"]
    report = keep_labels(log, "fraud", file_of(tmp_path, request_id=ids, label=[1, 0, 1, 0, 1, None, 1]))
    assert (report.labels, report.kept, report.same, report.without) == (7, 4, 0, 2)
    assert (report.unknown, report.contradicted, report.changed) == (1, 1, 0)
    assert report.examples == {"unknown": ["elsewhere"], "contradicted": ["r2"], "changed": []}
    assert known(log) == {"r1": 1.0, "r2": 1.0, "r3": 0.0, "elsewhere": 1.0}
    assert oct(Path(report.path).stat().st_mode)[-3:] == "600"


def test_later_label_replaces_the_one_before(log: Path, tmp_path: Path) -> None:
    """By its time, whatever came first; the same again is not kept twice."""

    def give(label: int, second: float) -> Any:
        at_time = datetime.fromtimestamp(NOON_S + second, UTC)
        return keep_labels(log, "fraud", file_of(tmp_path, request_id=["r1"], label=[label], time=[at_time]))

    assert give(0, 10).kept == 1
    assert (give(0, 20).kept, give(0, 20).path) == (0, "")
    report = give(1, 30)
    assert (report.kept, report.changed, report.examples["changed"]) == (1, 1, ["r1"])
    assert known(log) == {"r1": 1.0}
    assert (give(0, 15).kept, known(log)) == (0, {"r1": 1.0})


def test_csv_has_ids_as_they_are_written(log: Path, tmp_path: Path) -> None:
    """Digits with zeros in front are no number; true and false are labels."""
    path = tmp_path / "labels.csv"
    pacsv.write_csv(pa.table({"request_id": ["007", "r2"], "label": [True, False]}), path)
    assert keep_labels(log, "fraud", path).kept == 2
    assert known(log) == {"007": 1.0, "r2": 0.0}


@pytest.mark.parametrize(
    ("columns", "match"),
    [
        ({"id": ["r1"], "label": [1]}, "no column 'request_id': it has 'id', 'label'"),
        ({"request_id": ["r1"]}, "no column 'label'"),
        ({"request_id": ["r1"], "label": ["fraud"]}, "labels are numbers"),
        ({"request_id": ["r1"], "label": [1], "time": [5]}, "other values than it should"),
    ],
)
def test_file_without_labels_is_refused(log: Path, tmp_path: Path, columns: Any, match: str) -> None:
    """And nothing is kept."""
    with pytest.raises(SourceError, match=match):
        keep_labels(log, "fraud", file_of(tmp_path, **columns))
    assert not (log / "fraud" / "labels").exists()


def test_file_that_cannot_be_read_is_told(log: Path, tmp_path: Path) -> None:
    """Whether it is not there, is cut short, or lies beside the log and is cut short."""
    with pytest.raises(SourceError, match="cannot be read: there is no such file"):
        keep_labels(log, "fraud", tmp_path / "none.parquet")
    path = file_of(tmp_path, request_id=["r1"], label=[1])
    kept = Path(keep_labels(log, "fraud", path).path)
    for each in (path, kept):
        os.truncate(each, each.stat().st_size - 9)
    with pytest.raises(SourceError, match="cannot be read"):
        keep_labels(log, "fraud", path)
    with pytest.raises(SourceError, match="move the file away"):
        kept_labels(log, "fraud")


def test_labels_go_with_the_log(log: Path, tmp_path: Path) -> None:
    """By their age, but not for the room that lines take; a user's own file stays."""
    report = keep_labels(log, "fraud", file_of(tmp_path, request_id=["r1"], label=[1]))
    own = log / "fraud" / "labels" / "mine.parquet"
    own.write_bytes(Path(report.path).read_bytes())
    for each in (Path(report.path), own):
        os.utime(each, (NOON_S, NOON_S))
    sweep_log(log, age_s_max=100, bytes_max=0, now_s=lambda: NOON_S + 99)
    assert Path(report.path).exists()
    sweep_log(log, age_s_max=100, bytes_max=0, now_s=lambda: NOON_S + 101)
    assert not Path(report.path).exists()
    assert own.exists()


def test_labels_that_others_put_beside_the_log_count(log: Path, tmp_path: Path) -> None:
    """Of all pipelines, or of one; the newer file replaces the older where neither says a time."""
    for folder, values, second in ((log / "labels", [1, 1], 10), (log / "fraud" / "labels", [0, 1], 20)):
        folder.mkdir()
        path = folder / "own.parquet"
        pq.write_table(pa.table({"request_id": ["r1", f"r{second}"], "label": values}), path)
        os.utime(path, (NOON_S + second, NOON_S + second))
    assert known(log) == {"r1": 0.0, "r10": 1.0, "r20": 1.0}
    assert keep_labels(log, "fraud", file_of(tmp_path, request_id=["r10"], label=[1])).same == 1


def test_command_says_what_came_of_a_file(log: Path, tmp_path: Path) -> None:
    """Exit code 1 where no label is of a request that the log has."""
    path = file_of(tmp_path, request_id=["r1", "x\x1b"], label=[1, 0])
    result = CliRunner().invoke(app, [str(log), str(path)])
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("fraud: 2 of 2 labels are new, in ")
    assert "  1 are of requests that the log has no line of, as x?\n" in result.stdout
    path = file_of(tmp_path, request_id=["other"], label=[1])
    assert CliRunner().invoke(app, [str(log), str(path)]).exit_code == 1
