"""The end of the log: what is written is given once, as it comes, whatever becomes of the files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pytest

from log_writers import HOUR_S, NOON_S, Now, Write, at, numbered, writers
from tailrace.deadline import NS_PER_S
from tailrace.monitor.log.listing import LogFile, log_files
from tailrace.monitor.log.sealing import seal_draft
from tailrace.monitor.log.tail import LogTail


@pytest.fixture
def now() -> Now:
    """Return a clock that shows noon."""
    return Now()


@pytest.fixture
def write(tmp_path: Path, now: Now) -> Iterator[Write]:
    """Return what makes a writer of a pipeline's log."""
    with writers(tmp_path, now) as write:
        yield write


def tail_of(root: Path, now: Now, read: dict[LogFile, int | None] | None = None) -> LogTail:
    """Return a tail of a log."""
    return LogTail(root, "fraud", read or {}, lambda: int(now.s * NS_PER_S))


def new(tail: LogTail) -> list[str]:
    """Return the ids of new lines."""
    return [text for batch in tail.lines() for text in batch.column("request_id").to_pylist()]


def test_lines_come_once_over_the_ends_of_hours(tmp_path: Path, now: Now, write: Write) -> None:
    """From drafts, from files that became whole between two looks, and from those of another writer."""
    files, other = write(), write()
    files.write([at(0, 0, 2)])
    with closing(tail_of(tmp_path, now)) as tail:
        assert new(tail) == numbered(0, 2)
        assert new(tail) == []
        files.write([at(1, 2, 1)])
        assert new(tail) == numbered(2, 1)
        files.write([at(2, 3, 1)])
        now.s += HOUR_S
        files.write([at(HOUR_S - 1, 4, 1)])  # the draft before is whole now
        assert sorted(new(tail)) == numbered(3, 2)
        now.s += 1
        other.write([at(HOUR_S, 5, 1)])
        other.seal()
        assert new(tail) == numbered(5, 1)
        assert new(tail) == []


def test_lines_that_were_read_before_do_not_come(tmp_path: Path, now: Now, write: Write) -> None:
    """Whether their draft became whole meanwhile or not."""
    files, other = write(), write()
    files.write([at(0, 0, 3)])
    now.s += 1
    other.write([at(1, 3, 3)])
    read: dict[LogFile, int | None] = dict.fromkeys(log_files(tmp_path, "fraud"), 2)
    files.seal()
    with closing(tail_of(tmp_path, now, read)) as tail:
        assert new(tail) == ["r2", "r5"]


def test_line_that_is_half_written_comes_when_it_is_whole(tmp_path: Path, now: Now, write: Write) -> None:
    """The draft is read again from where it was whole."""
    files = write()
    files.write([at(0, 0, 1)])
    (draft,) = tmp_path.rglob("*.arrows")
    before = draft.stat().st_size
    files.write([at(0, 1, 1)])
    whole = draft.read_bytes()
    with closing(tail_of(tmp_path, now)) as tail:
        for end in (10, before - 3, before, before + 5, len(whole) - 1):
            draft.write_bytes(whole[:end])
            found = new(tail)
            assert found == (["r0"] if end == before else [])
        draft.write_bytes(whole)
        assert new(tail) == ["r1"]


def test_lines_that_a_successor_writes_again_come_once(tmp_path: Path, now: Now, write: Write) -> None:
    """What a killed observer has written of the rings."""
    first = write()
    first.write([at(0, 0, 4)])
    assert first._draft is not None
    with closing(tail_of(tmp_path, now)) as tail:
        assert new(tail) == numbered(0, 4)
        first._draft.close()
        seal_draft(first._draft.path)
        now.s = NOON_S + 1
        write().write([at(0, 2, 4)])
        assert new(tail) == numbered(4, 2)
        assert new(tail) == []


def test_draft_that_is_removed_is_let_go_of(tmp_path: Path, now: Now, write: Write) -> None:
    """With the lines that came before; others are followed on."""
    files = write()
    files.write([at(0, 0, 1)])
    with closing(tail_of(tmp_path, now)) as tail:
        assert new(tail) == ["r0"]
        files.write([at(0, 1, 1)])
        (draft,) = tmp_path.rglob("*.arrows")
        draft.unlink()
        assert new(tail) == ["r1"]
        assert not tail._drafts
        now.s += 1
        files.write([at(1, 2, 1)])
        assert new(tail) == ["r2"]


def test_lines_that_are_damaged_anywhere_end_nothing(tmp_path: Path, now: Now, write: Write) -> None:
    """Lines that stand there may be lost, those of others are not: whoever follows the log goes on."""
    for number in range(2):
        now.s = NOON_S + number
        write().write([at(number, number, 1)])
    damaged = min(tmp_path.rglob("*.arrows"))
    whole = damaged.read_bytes()
    source = pa.BufferReader(whole)
    pa.ipc.read_message(source)
    for place in range(source.tell(), len(whole), 7):
        damaged.write_bytes(whole[:place] + b"\xff" + whole[place + 1 :])
        with closing(tail_of(tmp_path, now)) as tail:
            assert "r1" in new(tail), place


def test_file_that_is_damaged_is_left_out(tmp_path: Path, now: Now, write: Write) -> None:
    """And is not read again and again."""
    files = write()
    files.write([at(0, 0, 1)])
    files.seal()
    (path,) = tmp_path.rglob("*.parquet")
    path.write_bytes(path.read_bytes()[:-9])
    with closing(tail_of(tmp_path, now)) as tail:
        assert new(tail) == []
        now.s += 1
        files.write([at(1, 1, 1)])
        assert new(tail) == ["r1"]
