"""The reader of the log: every line once, in whatever state the files are."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from log_writers import HOUR_S, NOON_S, Now, Write, at, ns, numbered, writers
from tailrace.errors import SetupError
from tailrace.monitor.log.listing import chosen_log
from tailrace.monitor.log.names import VERSION_KEY
from tailrace.monitor.log.reader import LogReader
from tailrace.monitor.log.sealing import seal_draft


@pytest.fixture
def now() -> Now:
    """Return a clock that shows noon."""
    return Now()


@pytest.fixture
def write(tmp_path: Path, now: Now) -> Iterator[Write]:
    """Return what makes a writer of a pipeline's log."""
    with writers(tmp_path, now) as write:
        yield write


def ids(reader: LogReader) -> list[str]:
    """Return the ids of all lines."""
    return [text for batch in reader.batches(["request_id"]) for text in batch.column(0).to_pylist()]


def test_whole_files_and_drafts_are_one_log(tmp_path: Path, now: Now, write: Write) -> None:
    """In the order in which they were written, over the ends of hours."""
    files = write()
    for hour in range(3):
        now.s = NOON_S + HOUR_S * hour
        files.write([at(HOUR_S * hour - 1, 2 * hour, 2)])
    reader = LogReader(tmp_path, "fraud")
    assert [lines.file.is_draft for lines in reader.files] == [False, False, True]
    assert ids(reader) == numbered(0, 6)
    assert not reader.passed_over
    assert chosen_log(tmp_path, None) == "fraud"


def test_time_says_which_lines_come(tmp_path: Path, now: Now, write: Write) -> None:
    """By when they were answered, also where that was an hour before they were written."""
    files = write()
    for second in range(0, 4 * HOUR_S, HOUR_S // 2):
        now.s = NOON_S + second + 1
        files.write([at(second, second, 1)])
    hours = LogReader(tmp_path, "fraud", since_ns=ns(HOUR_S), until_ns=ns(2 * HOUR_S))
    assert ids(hours) == [f"r{HOUR_S}", f"r{HOUR_S + HOUR_S // 2}"]
    assert len(hours.files) == 1
    assert ids(LogReader(tmp_path, "fraud", since_ns=ns(5 * HOUR_S))) == []


def test_features_that_change_within_an_hour_are_read_together(tmp_path: Path, now: Now, write: Write) -> None:
    """What a release does not have is null in its lines; of two kinds of numbers the wider is read."""
    files = write()
    files.write([at(0, 0, 1, features={"amount": np.ones(1), "age": np.ones(1, np.int32)})])
    now.s += 1
    files.write([at(1, 1, 1, features={"age": np.full(1, 0.5), "city": np.array(["Ghent"], object)}, decisions=None)])
    reader = LogReader(tmp_path, "fraud")
    lines = [line for batch in reader.batches(["features", "decision"]) for line in batch.to_pylist()]
    assert lines == [
        {"features": {"age": 1.0, "city": None, "amount": 1.0}, "decision": "allow"},
        {"features": {"age": 0.5, "city": "Ghent", "amount": None}, "decision": None},
    ]


def test_columns_of_another_kind_are_told_with_their_file(tmp_path: Path, now: Now, write: Write) -> None:
    """A number is no vector: the newest files are read, the others are named with what does not go together."""
    files = write()
    files.write([at(0, 0, 1, features={"size": np.ones(1)})])
    now.s += 1
    files.write([at(1, 1, 1, features={"size": np.ones((1, 2))}, scores=np.ones((1, 3)))])
    reader = LogReader(tmp_path, "fraud")
    assert ids(reader) == ["r1"]
    ((path, why),) = [(each.path, each.why) for each in reader.passed_over]
    assert path.suffix == ".parquet"
    assert why == "newer files have values of another kind in score, features.size"


def test_older_version_has_null_for_what_it_lacks(tmp_path: Path, write: Write) -> None:
    """A newer one is passed over, and so is what is no log."""
    files = write()
    files.write([at(0, 0, 1)])
    files.seal()
    (path,) = tmp_path.rglob("*.parquet")
    older = pq.read_table(path)
    older = older.drop(["event_time", "slot", "score"]).replace_schema_metadata(None)
    pq.write_table(older, path.with_name("1000-1-0.parquet"))
    newer = pq.read_table(path).replace_schema_metadata({VERSION_KEY: b"99"})
    pq.write_table(newer, path.with_name("2000-1-0.parquet"))
    pq.write_table(pa.table({"other": [1]}), path.with_name("3000-1-0.parquet"))
    reader = LogReader(tmp_path, "fraud")
    lines = [line for batch in reader.batches(["request_id", "slot", "score"]) for line in batch.to_pylist()]
    assert lines == [
        {"request_id": "r0", "slot": None, "score": None}, {"request_id": "r0", "slot": 0, "score": 0.0},
    ]  # fmt: skip
    assert [each.why for each in reader.passed_over] == [
        "it is of version 99, which a newer Tailrace reads", "it has no lines of a log",
    ]  # fmt: skip


@pytest.mark.parametrize("size", [0, 10, 2_000, -100])
def test_file_that_is_cut_short_is_named_and_passed_over(tmp_path: Path, now: Now, write: Write, size: int) -> None:
    """The others are read."""
    files = write()
    files.write([at(0, 0, 50)])
    files.seal()
    (cut,) = tmp_path.rglob("*.parquet")
    os.truncate(cut, size % cut.stat().st_size)
    now.s += 1
    files.write([at(1, 50, 50)])
    reader = LogReader(tmp_path, "fraud")
    assert ids(reader) == numbered(50, 50)
    assert [each.path for each in reader.passed_over] == [cut]
    assert reader.passed_over[0].why


def test_file_that_is_damaged_within_is_named(tmp_path: Path, now: Now, write: Write) -> None:
    """Its index is whole, so it is known only when it is read."""
    files = write()
    files.write([at(0, 0, 50)])
    files.seal()
    (damaged,) = tmp_path.rglob("*.parquet")
    with damaged.open("r+b") as file:
        file.seek(4)
        file.write(bytes(damaged.stat().st_size // 3))
    now.s += 1
    files.write([at(1, 50, 50)])
    reader = LogReader(tmp_path, "fraud")
    assert ids(reader) == numbered(50, 50)
    assert [each.path for each in reader.passed_over] == [damaged]


@pytest.mark.parametrize("cut", [1, 5, 300])
def test_draft_is_read_to_where_it_is_cut(tmp_path: Path, write: Write, cut: int) -> None:
    """And one that has no line yet is no fault."""
    files = write()
    files.write([at(0, 0, 5)])
    (draft,) = tmp_path.rglob("*.arrows")
    whole = draft.stat().st_size
    files.write([at(0, 5, 5)])
    os.truncate(draft, whole + cut)
    reader = LogReader(tmp_path, "fraud")
    assert (ids(reader), reader.passed_over) == (numbered(0, 5), [])
    os.truncate(draft, cut)
    reader = LogReader(tmp_path, "fraud")
    assert (ids(reader), reader.passed_over) == ([], [])


def test_empty_log_is_told(tmp_path: Path) -> None:
    """With what to do; a directory that is not there, too."""
    (tmp_path / "fraud").mkdir()
    with pytest.raises(SetupError, match="no lines"):
        chosen_log(tmp_path, None)
    with pytest.raises(SetupError, match="No such file"):
        chosen_log(tmp_path / "none", None)
    assert ids(LogReader(tmp_path, "fraud")) == []


def test_one_of_several_pipelines_must_be_named(tmp_path: Path, write: Write) -> None:
    """And one that is there."""
    for name in ("fraud", "price"):
        write(name).write([at(0, 0, 1)])
    assert chosen_log(tmp_path, "price") == "price"
    for other in (None, "other"):
        with pytest.raises(SetupError, match="name one of fraud, price"):
            chosen_log(tmp_path, other)


@pytest.mark.parametrize("number", [7, 8], ids=["a number again", "another number"])
@pytest.mark.parametrize("is_sealed", [True, False])
def test_lines_that_a_successor_writes_again_come_once(
    tmp_path: Path, now: Now, write: Write, monkeypatch: pytest.MonkeyPatch, number: int, is_sealed: bool
) -> None:
    """Whether callers give ids or not: what a killed observer wrote of the rings, and its successor again."""
    nameless = {"request_ids": [""] * 3, "waits_ns": np.arange(3) * 5_000}
    monkeypatch.setattr(os, "getpid", lambda: 7)
    first = write()
    first.write([at(0, 0, 4), at(0.5, 4, 3, **nameless), at(0.6, 7, 3)])
    assert first._draft is not None
    draft = first._draft
    first._draft = None
    draft.close()
    now.s += 1
    monkeypatch.setattr(os, "getpid", lambda: number)
    second = write()
    second.write([at(0.5, 4, 3, **nameless), at(0.6, 7, 3), at(0.9, 10, 2)])
    now.s += 1
    second.write([at(1.5, 12, 2)])
    if is_sealed:
        seal_draft(draft.path)
        second.seal()
    reader = LogReader(tmp_path, "fraud")
    assert ids(reader) == [*numbered(0, 4), None, None, None, *numbered(7, 7)]
    assert [len(places) for places in reader.twice.values()] == [6]


def test_lines_that_are_alike_are_not_taken_for_one(tmp_path: Path, now: Now, write: Write) -> None:
    """A caller that gives no id may ask the same twice, and a batch has one time."""
    files = write()
    same = {"requests": [b"{}"] * 3, "request_ids": [""] * 3}
    files.write([at(0, 0, 3, **same)])
    now.s += 1
    files.write([at(0, 0, 3, **same, features={})])
    reader = LogReader(tmp_path, "fraud")
    assert (len(reader.files), len(ids(reader))) == (2, 6)


def test_log_that_is_written_sealed_and_swept_meanwhile_gives_each_line_once(
    tmp_path: Path, now: Now, write: Write
) -> None:
    """A reader finds what was there when it began, but for what went."""
    files = write()
    for hour in range(3):
        now.s = NOON_S + HOUR_S * hour
        files.write([at(HOUR_S * hour, 2 * hour, 2)])
    reader = LogReader(tmp_path, "fraud")
    files.seal()
    oldest = min(tmp_path.rglob("*.parquet"))
    oldest.unlink()
    assert ids(reader) == numbered(2, 4)
    assert [each.path for each in reader.passed_over] == [oldest]


def test_reader_beside_a_writer_sees_no_line_twice_and_none_missing(tmp_path: Path, now: Now, write: Write) -> None:
    """Drafts become whole files all the while."""
    files = write()
    written = 0
    ending = threading.Event()

    def keep_writing() -> None:
        nonlocal written
        while not ending.is_set() and written < 600:
            now.s += 0.5
            files.write([at(now.s - NOON_S, written, 3)])
            written += 3
            if written % 12 == 0:
                files.seal()

    thread = threading.Thread(target=keep_writing)
    thread.start()
    try:
        readings = 0
        while thread.is_alive():
            before = written
            found = ids(LogReader(tmp_path, "fraud"))
            assert found == numbered(0, len(found))
            assert len(found) >= before
            readings += 1
    finally:
        ending.set()
        thread.join()
    assert readings
