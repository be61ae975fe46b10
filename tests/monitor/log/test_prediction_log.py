"""The files of the prediction log: what is in them, and what is left of them when a disk or a process fails."""

from __future__ import annotations

import errno
import inspect
import json
import os
from collections import deque
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tailrace.deadline import NS_PER_S
from tailrace.monitor.log.columns import PIPELINE_KEY, log_table
from tailrace.monitor.log.draft_lines import read_draft
from tailrace.monitor.log.files import TURNS_MAX, LogFiles
from tailrace.monitor.log.names import SCHEMA_VERSION, VERSION_KEY
from tailrace.monitor.log.sweep import sweep_log
from tailrace.monitor.log.writer import LogWriter
from tailrace.monitor.predictions import Predictions

NOON_S = 1_750_075_200.0
"""2025-06-16T12:00:00Z."""


def predictions(first: int, count: int, **changed: Any) -> Predictions:
    """Return predictions of requests with numbers that tell them apart."""
    numbers = list(range(first, first + count))
    column = np.array(numbers, float)
    facts: dict[str, Any] = {
        "pipeline": "fraud", "release": "r1", "slot": 0,
        "requests": [json.dumps({"n": number}).encode() for number in numbers],
        "request_ids": [f"r{number}" for number in numbers],
        "traces": [""] * count, "clients": ["10.0.0.1"] * count, "errors": [""] * count,
        "answered_ns": np.full(count, int(NOON_S * NS_PER_S)),
        "waits_ns": np.full(count, 5_000), "whole_ns": np.full(count, 9_000),
        "layers_ns": np.tile(np.arange(5) * 1_000, (count, 1)),
        "row_request": None,
        "features": {"amount": column, "Profile.kind": np.array(["a"] * count, object), "v": np.ones((count, 3))},
        "provenance": {"Profile": np.full(count, 2, np.uint8)},
        "event_ns": {"Profile": np.zeros(count, np.int64)},
        "scores": column / 10, "decisions": np.zeros(count, np.int64), "labels": ("allow", "block"),
        "reasons": None, "degraded": np.full(count, 3, np.uint8), "failed": np.zeros(count, np.bool_),
    }  # fmt: skip
    return Predictions(**facts | changed)


class Now:
    """A wall clock that is set by hand."""

    def __init__(self) -> None:
        self.s = NOON_S

    def __call__(self) -> float:
        """Return the time."""
        return self.s


@pytest.fixture
def now() -> Now:
    """Return a clock that shows noon."""
    return Now()


def ids(folder: Path, suffix: str = ".parquet") -> list[str]:
    """Return the ids of the requests in the files of a log."""
    found: list[str] = []
    for path in sorted(folder.rglob(f"*{suffix}")):
        batches = pq.read_table(path).to_batches() if suffix == ".parquet" else list(read_draft(path))
        found += [text for batch in batches for text in batch.column("request_id").to_pylist()]
    return found


def numbered(first: int, count: int) -> list[str]:
    """Return the ids of such requests."""
    return [f"r{number}" for number in range(first, first + count)]


def test_line_says_all_there_is_to_know(tmp_path: Path, now: Now) -> None:
    """Request, features, provenance, score, decision, times; the file says of what version and pipeline it is."""
    files = LogFiles(tmp_path, now)
    files.write([log_table(predictions(7, 1))])
    files.seal()
    (path,) = tmp_path.rglob("*.parquet")
    assert path.parent.name == "2025-06-16T12"
    (line,) = pq.read_table(path).to_pylist()
    assert line == {
        "time": datetime(2025, 6, 16, 12, tzinfo=UTC), "request_id": "r7", "trace": None, "client": "10.0.0.1",
        "release": "r1", "slot": 0, "row": 0, "request": '{"n": 7}', "error": None, "coalesced": None, "answer": None,
        "share": 1.0, "failed": False, "score": 0.7, "decision": "allow", "reasons": [],
        "degraded": ["stale_features", "store_timeout"],
        "features": {"amount": 7.0, "Profile.kind": "a", "v": [1.0, 1.0, 1.0]},
        "provenance": {"Profile": "default"}, "event_time": {"Profile": None},
        "wait_us": 5, "request_us": 0, "features_us": 1, "inference_us": 2, "postprocess_us": 3, "response_us": 4,
        "whole_us": 9,
    }  # fmt: skip
    metadata = pq.read_schema(path).metadata
    assert (metadata[VERSION_KEY], metadata[PIPELINE_KEY]) == (str(SCHEMA_VERSION).encode(), b"fraud")


def test_rows_of_a_request_say_their_places(tmp_path: Path, now: Now) -> None:
    """The request stands on its first row alone; a row that failed has no score."""
    found = predictions(
        0, 2, row_request=np.array([0, 0, 0, 1]), scores=np.ones(4), decisions=None, degraded=np.zeros(4, np.uint8),
        failed=np.array([False, True, False, False]), features={}, provenance={}, event_ns={},
    )  # fmt: skip
    lines = log_table(found).to_pylist()
    assert [line["row"] for line in lines] == [0, 1, 2, 0]
    assert [line["request"] for line in lines] == ['{"n": 0}', None, None, '{"n": 1}']
    assert [line["request_id"] for line in lines] == ["r0", "r0", "r0", "r1"]
    assert [line["score"] for line in lines] == [1.0, None, 1.0, 1.0]
    assert "decision" not in lines[0]


def test_request_without_rows_has_a_line_of_the_same_columns(tmp_path: Path, now: Now) -> None:
    """One that a fault has ended, and one that another's computation has answered: what is known of it is told."""
    found = predictions(
        0, 3, requests=[b"0", b"1", b"2", b"3", b"4"], request_ids=["r0", "r1", "r2", "r3", "r4"],
        traces=[""] * 5, clients=[""] * 5, errors=["", "", "", "server", ""], row_request=np.array([0, 1, 2]),
        answered_ns=np.full(5, int(NOON_S * NS_PER_S)), waits_ns=np.full(5, 5_000), whole_ns=np.full(5, 9_000),
        layers_ns=np.zeros((5, 5), np.int64), coalesced=["", "", "", "", "kept"], answers=[b"", b"", b"", b"", b"{}"],
    )  # fmt: skip
    table = log_table(found)
    assert table.schema.equals(log_table(predictions(7, 1)).schema)
    *scored, failed, kept = table.to_pylist()
    assert [line["score"] for line in scored] == [0.0, 0.1, 0.2]
    assert (failed["request_id"], failed["request"], failed["error"], failed["row"]) == ("r3", "3", "server", 0)
    assert (failed["score"], failed["features"], failed["failed"], failed["whole_us"]) == (None, None, None, 9)
    assert (kept["error"], kept["coalesced"], kept["answer"], kept["decision"]) == (None, "kept", "{}", None)


def test_each_hour_has_its_own_files(tmp_path: Path, now: Now) -> None:
    """A draft is sealed when its hour is over, whether or not something comes."""
    files = LogFiles(tmp_path, now)
    files.write([log_table(predictions(0, 2))])
    now.s += 3_600
    files.write([log_table(predictions(2, 2))])
    assert ids(tmp_path) == numbered(0, 2)
    now.s += 3_600
    files.seal_if_due()
    assert ids(tmp_path) == numbered(0, 4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2025-06-16T12", "2025-06-16T13"]
    assert not list(tmp_path.rglob("*.arrows"))


def test_columns_that_change_begin_a_new_file(tmp_path: Path, now: Now) -> None:
    """Another release has other features: each file has lines of one kind."""
    files = LogFiles(tmp_path, now)
    files.write([log_table(predictions(0, 2)), log_table(predictions(2, 1, features={"other": np.ones(1)}))])
    files.seal()
    assert ids(tmp_path) == numbered(0, 3)
    assert len(list(tmp_path.rglob("*.parquet"))) == 2


def test_columns_that_change_in_turns_are_few_files(tmp_path: Path, now: Now) -> None:
    """As of two releases that are served at once: each frame had begun another file, forty a second."""
    files = LogFiles(tmp_path, now)
    for first in range(0, 400, 2):
        files.write([log_table(predictions(first, 1))])
        files.write([log_table(predictions(first + 1, 1, features={"other": np.ones(1)}))])
    files.flush()
    assert sorted(ids(tmp_path) + ids(tmp_path, ".arrows")) == sorted(numbered(0, 400))
    assert len(list(tmp_path.rglob("*.*"))) <= TURNS_MAX + 2
    assert files.recover() == 0
    now.s += 3_600
    files.seal_if_due()
    assert sorted(ids(tmp_path)) == sorted(numbered(0, 400))
    files.write([log_table(predictions(400, 1)), log_table(predictions(401, 1, features={"other": np.ones(1)}))])
    assert len(ids(tmp_path, ".arrows")) == 1  # it is calm again
    files.seal()


def test_drafts_of_columns_that_change_ever_again_are_few(tmp_path: Path, now: Now) -> None:
    """The one that was written longest ago becomes whole; one that was removed is begun anew."""
    files = LogFiles(tmp_path, now)
    for number in range(20):
        files.write([log_table(predictions(number, 1, features={f"f{number}": np.ones(1)}))])
    assert (ids(tmp_path), ids(tmp_path, ".arrows")) == (sorted(numbered(0, 16)), numbered(16, 4))
    min(tmp_path.rglob("*.arrows")).unlink()
    files.write([log_table(predictions(20, 1, features={"f16": np.ones(1)}))])
    files.seal()
    assert ids(tmp_path) == sorted([*numbered(0, 16), *numbered(17, 4)])


@pytest.mark.parametrize("cut", [1, 100, 1_000])
def test_draft_of_a_process_that_was_killed_is_sealed_by_the_next(tmp_path: Path, now: Now, cut: int) -> None:
    """Up to where it is cut; one whose writer lives is left to it."""
    first = LogFiles(tmp_path, now)
    first.write([log_table(predictions(0, 50))])
    (draft,) = tmp_path.rglob("*.arrows")
    whole = draft.stat().st_size
    first.write([log_table(predictions(50, 50))])
    second = LogFiles(tmp_path, now)
    assert second.recover() == 0
    assert first._draft is not None
    first._draft.close()  # as the kernel does for a process that dies
    os.truncate(draft, whole + cut)
    assert second.recover() == 1
    assert ids(tmp_path) == numbered(0, 50)
    assert [path.suffix for path in tmp_path.rglob("*") if path.is_file()] == [".parquet"]


def test_draft_without_a_whole_line_goes(tmp_path: Path, now: Now) -> None:
    """There is nothing in it."""
    files = LogFiles(tmp_path, now)
    files.write([log_table(predictions(0, 1))])
    (draft,) = tmp_path.rglob("*.arrows")
    assert files._draft is not None
    files._draft.close()
    os.truncate(draft, 10)
    assert LogFiles(tmp_path, now).recover() == 1
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_disk_that_is_full_for_a_while_costs_nothing_but_time(
    tmp_path: Path, now: Now, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What does not fit waits, and is there once, behind what was there before."""
    writer = LogWriter(tmp_path, age_s_max=1e9, bytes_max=1 << 30, now_s=now)
    pending = deque([predictions(0, 3)])
    writer.write(pending)
    (draft,) = tmp_path.rglob("*.arrows")
    limit = draft.stat().st_size + 700
    pending += [predictions(3, 3), predictions(6, 3)]
    log = writer._files["fraud"]._draft
    assert log is not None
    file = log._file
    monkeypatch.setattr(log, "_file", Full(file, limit))
    for _ in range(3):
        with pytest.raises(OSError, match="No space"):
            writer.write(pending)
    assert len(pending) == 2
    monkeypatch.setattr(log, "_file", file)
    writer.write(pending)
    writer.close()
    assert ids(tmp_path) == numbered(0, 9)
    assert writer.logged == {"fraud": 9}


def test_predictions_that_no_lines_can_be_made_of_keep_no_others_waiting(tmp_path: Path, now: Now) -> None:
    """They are counted, and the reason is told."""
    writer = LogWriter(tmp_path, age_s_max=1e9, bytes_max=1 << 30, now_s=now)
    odd = predictions(1, 2, scores=np.array([object(), "text"], object))
    pending = deque([predictions(0, 1), odd, predictions(3, 1)])
    writer.write(pending)
    assert not pending
    unfit, fault = writer.take_unfit()
    assert (unfit, fault.startswith("fraud: ")) == (2, True)
    assert writer.take_unfit()[0] == 0
    writer.close()
    assert ids(tmp_path) == ["r0", "r3"]


class Full:
    """A file on a disk that has room up to a limit: it takes what fits, and then nothing."""

    def __init__(self, file: Any, limit: int) -> None:
        self.file = file
        self._limit = limit

    def write(self, data: memoryview) -> int:
        """Write as much as there is room for."""
        room = self._limit - self.file.tell()
        if room <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return int(self.file.write(data[:room]))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def test_parquet_file_has_its_name_only_when_it_is_whole(
    tmp_path: Path, now: Now, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fails while a draft is sealed leaves the draft, which is sealed later."""
    files = LogFiles(tmp_path, now)
    files.write([log_table(predictions(0, 4))])

    def fail(*arguments: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="Input/output"):
            files.seal()
    assert [path.suffix for path in tmp_path.rglob("*") if path.is_file()] == [".arrows"]
    assert LogFiles(tmp_path, now).recover() == 1
    assert ids(tmp_path) == numbered(0, 4)


def test_request_is_found_without_reading_what_is_not_of_it(tmp_path: Path, now: Now) -> None:
    """A row group has a filter of its ids, as large as they are many; without ids there is none."""
    if "bloom_filter_options" not in inspect.signature(pq.ParquetWriter.__init__).parameters:
        pytest.skip("this pyarrow writes no Bloom filters")
    for pipeline, ids_sent in (("few", [f"r{n}" for n in range(100)]), ("many", None), ("none", [""] * 100)):
        files = LogFiles(tmp_path / pipeline, now)
        rows = 100 if ids_sent else 20_000
        files.write([log_table(predictions(0, rows, **({"request_ids": ids_sent} if ids_sent else {})))])
        files.seal()
    sizes = {}
    for path in tmp_path.rglob("*.parquet"):
        column = pq.read_metadata(path).row_group(0).column(1)
        assert column.path_in_schema == "request_id"
        assert "RLE_DICTIONARY" not in column.encodings
        sizes[path.parts[-3]] = column.bloom_filter_length
    assert 0 < sizes["few"] < 300
    assert 20_000 < sizes["many"] < 70_000
    assert sizes["none"] is None
    duckdb = pytest.importorskip("duckdb")
    (path,) = (tmp_path / "many").rglob("*.parquet")
    probe = "SELECT bloom_filter_excludes FROM parquet_bloom_probe(?, 'request_id', ?)"
    assert duckdb.execute(probe, [str(path), "r19999"]).fetchall() == [(False,)]
    assert duckdb.execute(probe, [str(path), "another"]).fetchall() == [(True,)]


def test_trace_is_found_as_a_request_is(tmp_path: Path, now: Now) -> None:
    """Where callers tell traces there is a filter of them, too."""
    files = LogFiles(tmp_path, now)
    files.write([log_table(predictions(0, 50, traces=[f"{n:032x}" for n in range(50)], request_ids=[""] * 50))])
    files.seal()
    (path,) = tmp_path.rglob("*.parquet")
    group = pq.read_metadata(path).row_group(0)
    columns = {column.path_in_schema: column for column in map(group.column, range(group.num_columns))}
    if "bloom_filter_options" in inspect.signature(pq.ParquetWriter.__init__).parameters:
        assert columns["trace"].bloom_filter_length
    assert columns["request_id"].bloom_filter_length is None
    assert pq.read_table(path)["trace"].to_pylist()[-1] == f"{49:032x}"


def test_what_is_too_old_or_too_much_goes(tmp_path: Path, now: Now) -> None:
    """The oldest first; what is being written stays."""
    files = LogFiles(tmp_path / "fraud", now)
    for hour in range(4):
        now.s = NOON_S + 3_600 * hour
        files.write([log_table(predictions(hour, 1))])
        files.seal()
        for path in (tmp_path / "fraud" / f"2025-06-16T{12 + hour}").iterdir():
            os.utime(path, (now.s, now.s))
    files.write([log_table(predictions(4, 1))])
    assert sweep_log(tmp_path, age_s_max=2.5 * 3_600, bytes_max=1 << 30, now_s=now) == 1
    assert ids(tmp_path) == numbered(1, 3)
    size = max(path.stat().st_size for path in tmp_path.rglob("*.parquet"))
    assert sweep_log(tmp_path, age_s_max=1e9, bytes_max=size, now_s=now) == 2
    assert ids(tmp_path) == numbered(3, 1)
    assert ids(tmp_path, ".arrows") == numbered(4, 1)
    assert len(list((tmp_path / "fraud").iterdir())) == 1
    files.seal()
