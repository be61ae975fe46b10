"""The files of the prediction log on a disk that fails, and where others have laid hands on them."""

from __future__ import annotations

import ctypes
import errno
import os
import random
import shutil
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pytest
from structlog.testing import capture_logs
from test_prediction_log import NOON_S, Full, Now, ids, numbered, predictions

from tailrace.monitor.log.columns import log_table
from tailrace.monitor.log.draft_lines import read_draft
from tailrace.monitor.log.files import LogFiles
from tailrace.monitor.log.names import DAMAGED
from tailrace.monitor.log.writer import DOUBT_S, LOOK_S, LogWriter

DISK_BYTES = 256 << 10
_libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def now() -> Now:
    """Return a clock that shows noon."""
    return Now()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Yield a disk of 256 KiB. Skipped where none may be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if _libc.mount(b"none", os.fsencode(folder), b"tmpfs", 0, f"size={DISK_BYTES}".encode()):
        pytest.skip(f"no disk can be mounted here: {os.strerror(ctypes.get_errno())}")
    yield folder
    _libc.umount2(os.fsencode(folder), 2)


def fill(folder: Path) -> Path:
    """Fill a disk; return the file that does."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4_096)):
            pass
    return path


def writer_of(folder: Path, now: Now, elapsed: Now | None = None) -> LogWriter:
    """Return a writer by clocks that are set by hand."""
    return LogWriter(folder, age_s_max=7_200, bytes_max=1 << 30, now_s=now, elapsed_s=elapsed or now)


def suffixes(folder: Path) -> list[str]:
    """Return the endings of all files of a log."""
    return sorted(path.suffix for path in folder.rglob("*-*-*.*") if path.is_file())


def test_full_disk_is_not_strewn_with_files_that_could_not_be_begun(disk: Path, now: Now) -> None:
    """There is room for a name where there is none for a line; each attempt takes its own away."""
    files = LogFiles(disk / "log", now)
    (disk / "log").mkdir()
    filler = fill(disk)
    for _ in range(5):
        with pytest.raises(OSError, match="No space"):
            files.write([log_table(predictions(0, 3))])
        now.s += 1
    assert suffixes(disk) == []
    filler.unlink()
    files.write([log_table(predictions(0, 3))])
    assert ids(disk, ".arrows") == numbered(0, 3)
    files.seal()


def test_draft_that_a_full_disk_keeps_from_becoming_whole_does_so_later(disk: Path, now: Now) -> None:
    """At the next look behind it, by the same process, and what came meanwhile is there too."""
    elapsed = Now()
    writer = writer_of(disk / "log", now, elapsed)
    writer.write(deque([predictions(0, 200)]))
    writer.look()
    filler = fill(disk)
    now.s += 3_600
    with pytest.raises(OSError, match="No space"):
        writer.look()
    assert suffixes(disk) == [".arrows"]
    filler.unlink()
    writer.write(deque([predictions(200, 1)]))
    elapsed.s += LOOK_S
    writer.look()
    assert suffixes(disk) == [".arrows", ".parquet"]
    assert ids(disk) == numbered(0, 200)
    writer.close()
    assert ids(disk) == numbered(0, 201)


def test_log_of_one_pipeline_that_is_refused_holds_up_no_other(tmp_path: Path, now: Now) -> None:
    """Neither lines nor the end of an hour; what was refused is there in its order, once it is taken."""
    writer = writer_of(tmp_path, now)
    (tmp_path / "fraud").touch()
    pending = deque([predictions(0, 2), predictions(2, 2, pipeline="other"), predictions(4, 2)])
    with pytest.raises(OSError, match="fraud"):
        writer.write(pending)
    assert [each.request_ids for each in pending] == [["r0", "r1"], ["r4", "r5"]]
    assert (ids(tmp_path / "other", ".arrows"), writer.logged) == (["r2", "r3"], {"other": 2})
    now.s += 3_600
    writer.look()
    assert suffixes(tmp_path) == [".parquet"]
    (tmp_path / "fraud").unlink()
    writer.write(pending)
    assert (len(pending), ids(tmp_path / "fraud", ".arrows")) == (0, ["r0", "r1", "r4", "r5"])
    writer.close()


def test_many_drafts_that_were_left_hold_up_no_lines(tmp_path: Path, now: Now) -> None:
    """One becomes whole a second, until none is left; one killed between two steps of it has each line once."""
    for first in (0, 10, 20):
        files = LogFiles(tmp_path / "fraud", now)
        files.write([log_table(predictions(first, 10))])
        assert files._draft is not None
        files._draft.close()
        now.s += 1
    killed = min(tmp_path.rglob("*.arrows"))
    content = killed.read_bytes()
    elapsed = Now()
    writer = writer_of(tmp_path, now, elapsed)
    for whole in (1, 2, 3):
        writer.look()
        elapsed.s += 1
        assert len(list(tmp_path.rglob("*.parquet"))) == whole
    killed.write_bytes(content)  # as if it had been killed before it removed the draft
    killed.with_suffix(".part").write_bytes(b"half")
    elapsed.s += LOOK_S
    writer.look()
    assert ids(tmp_path) == numbered(0, 30)
    assert suffixes(tmp_path) == [".parquet"] * 3


def test_log_that_is_removed_while_it_is_written_is_begun_anew(tmp_path: Path, now: Now) -> None:
    """Lines do not go into a file that has no name any more, as those do that were there before."""
    writer = writer_of(tmp_path / "log", now)
    writer.write(deque([predictions(0, 2)]))
    shutil.rmtree(tmp_path / "log")
    with capture_logs() as told:
        writer.write(deque([predictions(2, 2)]))
    assert [event["event"] for event in told] == ["a draft of the log was changed by others"]
    assert ids(tmp_path / "log", ".arrows") == numbered(2, 2)
    writer.close()


def test_log_that_is_moved_while_it_is_written_goes_on_at_its_place(tmp_path: Path, now: Now) -> None:
    """What was written before went along, and can be read."""
    writer = writer_of(tmp_path / "log", now)
    writer.write(deque([predictions(0, 2)]))
    (tmp_path / "log").rename(tmp_path / "kept")
    writer.write(deque([predictions(2, 2)]))
    writer.close()
    assert ids(tmp_path / "log") == numbered(2, 2)
    assert ids(tmp_path / "kept", ".arrows") == numbered(0, 2)


@pytest.mark.parametrize("bytes_more", [-100, 100])
def test_draft_that_is_cut_or_grows_by_another_hides_no_later_lines(tmp_path: Path, now: Now, bytes_more: int) -> None:
    """Those behind the damage would never be found: they begin another, and both become whole."""
    elapsed = Now()
    writer = writer_of(tmp_path, now, elapsed)
    for first in (0, 2):
        writer.write(deque([predictions(first, 2)]))
    (draft,) = tmp_path.rglob("*.arrows")
    os.truncate(draft, draft.stat().st_size + bytes_more)
    writer.write(deque([predictions(4, 2)]))
    writer.look()
    writer.close()
    expected = numbered(0, 2 if bytes_more < 0 else 4) + numbered(4, 2)
    assert ids(tmp_path) == expected


def test_lines_of_which_the_rest_cannot_be_taken_back_hide_no_later_ones(tmp_path: Path, now: Now) -> None:
    """Where a disk takes half a line, and then not even that it be cut off, another draft is begun."""
    files = LogFiles(tmp_path, now)
    files.write([log_table(predictions(0, 2))])
    draft = files._draft
    assert draft is not None
    whole = draft._file
    draft._file = cast(Any, Stuck(whole, draft.bytes + 300))
    with pytest.raises(OSError, match="Read-only"):
        files.write([log_table(predictions(2, 2))])
    files.write([log_table(predictions(2, 2))])
    assert files.recover() == 1
    files.seal()
    assert ids(tmp_path) == numbered(0, 4)
    assert whole.closed


class Stuck(Full):
    """A file on a disk that is full first, and read-only then."""

    def truncate(self, size: int) -> None:
        """Refuse it."""
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))


@pytest.mark.parametrize("seed", range(12))
def test_damaged_draft_ends_no_process_and_is_put_aside(tmp_path: Path, now: Now, seed: int) -> None:
    """Lines before the damage become whole, and so do other drafts; what was damaged is kept as it is."""
    ends = []
    for first in (0, 150):
        files = LogFiles(tmp_path, now)
        for part in (0, 50, 100):
            files.write([log_table(predictions(first + part, 50))])
            assert files._draft is not None
            ends.append(files._draft.bytes)
        assert files._draft is not None
        files._draft.close()
        now.s += 1
    spoilt = min(tmp_path.rglob("*.arrows"))
    content = bytearray(spoilt.read_bytes())
    places = random.Random(seed)
    for _ in range(40):
        content[places.randrange(ends[0], ends[1])] ^= 0xFF
    spoilt.write_bytes(content)
    known = [text for batch in read_draft(spoilt) for text in batch.column("request_id").to_pylist()]
    with capture_logs():
        assert LogFiles(tmp_path, now).recover() == 2
    assert known == numbered(0, 50)
    assert ids(tmp_path) == known + numbered(150, 150)
    left = [path for path in tmp_path.rglob("*") if path.suffix not in {".parquet", ""} and path.is_file()]
    assert [path.suffix for path in left] == [DAMAGED]


def test_draft_of_nothing_that_can_be_read_is_kept(tmp_path: Path, now: Now) -> None:
    """It is told, put aside, and removed with what is too old, not before."""
    files = LogFiles(tmp_path / "fraud", now)
    files.write([log_table(predictions(0, 50))])
    assert files._draft is not None
    files._draft.close()
    (path,) = tmp_path.rglob("*.arrows")
    content = path.read_bytes()
    path.write_bytes(bytes(64) + content[64:])
    writer = writer_of(tmp_path, now)
    with capture_logs() as told:
        writer.look()
    assert [event["event"] for event in told] == ["a draft of the log is damaged"]
    assert suffixes(tmp_path) == [DAMAGED]
    os.utime(path.with_suffix(DAMAGED), (NOON_S - 7_201, NOON_S - 7_201))
    now.s += LOOK_S
    writer.look()
    assert suffixes(tmp_path) == []


def test_disk_that_cannot_be_read_takes_no_lines_away(
    tmp_path: Path, now: Now, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A draft whose end does not come from the disk is no draft that ends there."""
    files = LogFiles(tmp_path, now)
    for first in (0, 50):
        files.write([log_table(predictions(first, 50))])

    class Failing(pa.RecordBatchStreamReader):  # type: ignore[misc]
        """Reads one batch."""

        def __iter__(self) -> Iterator[Any]:
            yield self.read_next_batch()
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(pa.ipc, "open_stream", Failing)
        with pytest.raises(OSError, match="Input/output"):
            files.seal()
    assert suffixes(tmp_path) == [".arrows"]
    assert files.recover() == 1
    assert ids(tmp_path) == numbered(0, 100)


def test_what_others_keep_in_the_directory_is_left_to_them(tmp_path: Path, now: Now) -> None:
    """Whatever its age: only files with names as the log gives them go."""
    theirs = [tmp_path / "warehouse" / "2024" / "sales.parquet", tmp_path / "fraud" / "labels" / "1-2-3.parquet"]
    ours = tmp_path / "fraud" / "2025-01-01T00" / "1-2-3.parquet"
    for path in (*theirs, ours):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x")
        os.utime(path, (0, 0))
    writer_of(tmp_path, now).look()
    assert [path.exists() for path in (*theirs, ours)] == [True, True, False]


def test_clock_that_jumps_ahead_makes_no_file_old(tmp_path: Path, now: Now) -> None:
    """Set back within the hour it has removed nothing; one that stays is believed then."""
    elapsed = Now()
    writer = writer_of(tmp_path, now, elapsed)
    writer.write(deque([predictions(0, 2)]))
    now.s += 3_600
    writer.look()
    (path,) = tmp_path.rglob("*.parquet")
    os.utime(path, (now.s, now.s))
    for hours in (100, -100, 100):
        now.s += hours * 3_600
        for clock in (now, elapsed):
            clock.s += LOOK_S
        writer.look()
        assert path.exists()
    for clock in (now, elapsed):
        clock.s += DOUBT_S
    writer.look()
    assert not path.exists()


def test_clock_that_jumps_back_writes_over_nothing(tmp_path: Path, now: Now) -> None:
    """Each line is there once, in the folder of the hour that the clock showed."""
    files = LogFiles(tmp_path, now)
    for first, hours in ((0, 0), (2, 5), (4, -5), (6, -1)):
        now.s += hours * 3_600
        files.write([log_table(predictions(first, 2))])
    files.seal()
    assert sorted(ids(tmp_path)) == numbered(0, 8)
    folders = {path.parent.name for path in tmp_path.rglob("*.parquet")}
    assert folders == {"2025-06-16T12", "2025-06-16T17", "2025-06-16T11"}
