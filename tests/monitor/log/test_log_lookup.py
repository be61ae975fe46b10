"""A request is found in the log by its id: in whole files and drafts, whatever has become of those beside it."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_prediction_log import NOON_S, predictions

from tailrace.errors import SetupError
from tailrace.monitor.log.columns import log_table
from tailrace.monitor.log.files import LogFiles
from tailrace.monitor.log.lookup import TRACE, Lookup, find_lines


def write(root: Path, first: int, count: int, *, hour: int = 0, seal: bool = True, **changed: object) -> Path:
    """Write predictions of some requests; return the file."""
    pipeline = str(changed.get("pipeline", "fraud"))
    files = LogFiles(root / pipeline, lambda: NOON_S + 3_600 * hour + first)
    files.write([log_table(predictions(first, count, **changed))])
    if seal:
        files.seal()
    else:
        let_go(files)
    return max(root.rglob("*.*"), key=lambda path: path.stat().st_mtime_ns)


def let_go(files: LogFiles) -> None:
    """Leave a draft as a writer does that is killed."""
    assert files._draft is not None
    files._draft.close()


def ids(found: Lookup) -> list[str]:
    """Return the requests that were found."""
    return [line.values["request_id"] for line in found.lines]


def test_line_is_found_with_all_its_columns(tmp_path: Path) -> None:
    """As it was written, of a whole file and of a draft alike."""
    for seal in (True, False):
        root = tmp_path / str(seal)
        write(root, 0, 10, seal=seal, event_ns={"Profile": np.full(10, int(NOON_S) * 10**9)})
        (line,) = find_lines(root, "r7").lines
        values = line.values
        assert (line.pipeline, values["time"]) == ("fraud", datetime.fromtimestamp(NOON_S, UTC))
        assert (values["score"], values["decision"], values["wait_us"]) == (0.7, "allow", 5)
        assert values["features"] == {"amount": 7.0, "Profile.kind": "a", "v": [1.0, 1.0, 1.0]}
        assert values["event_time"] == {"Profile": datetime.fromtimestamp(NOON_S, UTC)}
        assert "file_row_number" not in values


def test_files_of_several_schemas_are_searched_together(tmp_path: Path) -> None:
    """A feature that another release has is no feature of this line."""
    write(tmp_path, 0, 5, features={"amount": np.zeros(5)})
    write(tmp_path, 10, 5, features={"other": np.zeros(5)}, hour=1)
    write(tmp_path, 20, 5, pipeline="ranking")
    assert find_lines(tmp_path, "r2").lines[0].values["features"] == {"amount": 0.0}
    assert find_lines(tmp_path, "r12").lines[0].values["features"] == {"other": 0.0}
    assert find_lines(tmp_path, "r22").lines[0].pipeline == "ranking"
    assert find_lines(tmp_path, "r22", pipeline="fraud").lines == []


def test_what_was_searched_is_told_where_nothing_is_found(tmp_path: Path) -> None:
    """Files, rows and hours; an id is no pattern, and no part of another is one."""
    write(tmp_path, 0, 10)
    write(tmp_path, 10, 10, hour=2)
    write(tmp_path, 20, 10, hour=3, seal=False)
    for wanted in ("r", "r%", "' OR 1=1 --", "R7", "r70"):
        found = find_lines(tmp_path, wanted)
        assert (found.lines, found.files, found.rows, found.drafts) == ([], 2, 20, 1)
        assert (found.first_hour, found.last_hour) == ("2025-06-16T12", "2025-06-16T15")
    assert find_lines(tmp_path / "fraud", "r7").files == 0  # it has no pipelines
    with pytest.raises(SetupError, match="there is no log"):
        find_lines(tmp_path / "none", "r7")


def test_pipeline_that_the_log_does_not_have_is_told(tmp_path: Path) -> None:
    """With those that it has: that nothing was searched is not that nothing was found."""
    write(tmp_path, 0, 10)
    with pytest.raises(SetupError, match="no pipeline 'frauds'") as found:
        find_lines(tmp_path, "r1", pipeline="frauds")
    assert "fraud" in found.value.next


def test_labels_that_are_kept_beside_the_log_are_no_part_of_it(tmp_path: Path) -> None:
    """They have request ids too."""
    path = write(tmp_path, 0, 10)
    labels = tmp_path / "fraud" / "labels"
    labels.mkdir()
    pq.write_table(pa.table({"request_id": ["r7", "r99"], "label": [1, 0]}), labels / path.name)
    assert ids(find_lines(tmp_path, "r7")) == ["r7"]
    found = find_lines(tmp_path, "r99")
    assert (found.lines, found.files, found.last_hour) == ([], 1, "2025-06-16T12")


def test_time_narrows_the_search(tmp_path: Path) -> None:
    """To the hours beside it."""
    for hour in (0, 3, 6):
        write(tmp_path, 10 * hour, 5, hour=hour)
    at = datetime.fromtimestamp(NOON_S + 3 * 3_600, UTC)
    assert ids(find_lines(tmp_path, "r31", at=at)) == ["r31"]
    assert find_lines(tmp_path, "r61", at=at).lines == []
    assert find_lines(tmp_path, "r61", at=at).files == 1


def test_damaged_files_are_named_and_passed_over(tmp_path: Path) -> None:
    """Cut short, overwritten in the middle, empty, of a newer schema, without ids: all others are searched."""
    write(tmp_path, 0, 10)
    cut, changed, newer, empty = (write(tmp_path, 100 * place, 10) for place in range(1, 5))
    os.truncate(cut, cut.stat().st_size - 7)
    content = bytearray(changed.read_bytes())
    content[4:-64] = bytes(len(content) - 68)
    changed.write_bytes(content)
    table = pq.read_table(newer)
    pq.write_table(table.replace_schema_metadata({b"tailrace.log.version": b"9"}), newer)
    os.truncate(empty, 0)
    without = write(tmp_path, 500, 10)
    pq.write_table(pq.read_table(without).drop_columns(["request_id"]), without)
    assert ids(find_lines(tmp_path, "r7")) == ["r7"]
    told = {each.path: each.why for each in find_lines(tmp_path, "r302").passed_over}
    assert "cut short" in told[cut]
    assert "version 9" in told[newer]
    assert told.keys() == {cut, changed, newer, empty, without}


def test_older_schema_lacks_columns_and_is_told_all_the_same(tmp_path: Path) -> None:
    """A file of no version, without the columns that came later."""
    path = write(tmp_path, 0, 10)
    table = pq.read_table(path).drop_columns(["trace", "provenance", "event_time"])
    pq.write_table(table.replace_schema_metadata({}), path)
    (line,) = find_lines(tmp_path, "r3").lines
    assert "trace" not in line.values
    assert line.values["score"] == pytest.approx(0.3)


def test_draft_is_read_to_where_it_is_cut(tmp_path: Path) -> None:
    """A writer that was killed leaves half a message; what is before it is found, and another draft's start is none."""
    files = LogFiles(tmp_path / "fraud", lambda: NOON_S)
    files.write([log_table(predictions(0, 5))])
    files.write([log_table(predictions(5, 5))])
    let_go(files)
    (path,) = tmp_path.rglob("*.arrows")
    os.truncate(path, path.stat().st_size - 100)
    assert ids(find_lines(tmp_path, "r3")) == ["r3"]
    assert find_lines(tmp_path, "r8").lines == []
    path.with_name("1-1-1.arrows").write_bytes(b"")
    path.with_name("2-2-2.arrows").write_bytes(path.read_bytes()[:50])
    found = find_lines(tmp_path, "r3")
    assert (ids(found), found.passed_over) == (["r3"], [])


def test_draft_that_is_damaged_within_is_named_and_ends_nothing(tmp_path: Path) -> None:
    """A length that leads out of the file would end the process that follows it; what stands behind it is found."""
    files = LogFiles(tmp_path / "fraud", lambda: NOON_S)
    for first in (0, 5):
        files.write([log_table(predictions(first, 5))])
    let_go(files)
    (path,) = tmp_path.rglob("*.arrows")
    ends = np.arange(0, 12, 2, np.int32).tobytes()  # of the ids r0 to r4
    whole = path.read_bytes()
    assert ends in whole
    damaged = ends[:8] + (1 << 30).to_bytes(4, "little") + ends[12:]
    path.write_bytes(whole.replace(ends, damaged, 1))
    found = find_lines(tmp_path, "r3")
    assert (ids(found), [each.why for each in found.passed_over]) == ([], ["a part of it is damaged"])
    assert ids(find_lines(tmp_path, "r8")) == ["r8"]


def test_draft_that_becomes_whole_is_found_once(tmp_path: Path) -> None:
    """Both are there for a moment, or the draft is gone when it is its turn."""
    write(tmp_path, 0, 5, seal=False)
    (draft,) = tmp_path.rglob("*.arrows")
    with pa.ipc.open_stream(draft.read_bytes()) as reader:
        pq.write_table(reader.read_all(), draft.with_suffix(".parquet"))
    assert ids(find_lines(tmp_path, "r3")) == ["r3"]


def test_trace_finds_its_requests(tmp_path: Path) -> None:
    """Where a caller sends no id, but a trace."""
    write(tmp_path, 0, 3, traces=["", "4bf92f3577b34da6a3ce929d0e0e4736", ""], request_ids=["", "", ""])
    (line,) = find_lines(tmp_path, "4bf92f3577b34da6a3ce929d0e0e4736", by=TRACE).lines
    assert line.values["score"] == pytest.approx(0.1)
