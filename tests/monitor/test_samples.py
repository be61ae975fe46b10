"""Samples of served requests: what a line says, how many there are, and what a disk that fails costs."""

from __future__ import annotations

import json
import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from tailrace.batch import Batch
from tailrace.compile.samples import Samples
from tailrace.errors import SetupError
from tailrace.monitor import samples
from tailrace.monitor.sampler import _INTERVAL_NS, ROWS_MAX, Sampler
from tailrace.monitor.samples import SampleWriter, read_samples, sample_files
from tailrace.pipeline import Pipeline
from tailrace.testing import ManualClock, TestClient

PAYMENT = {"customer_id": 1, "terminal_id": 2, "amount": 20.0, "time": "2025-06-15T12:00:00Z"}


class Log:
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def bind(self, **facts: Any) -> Log:
        """Return itself."""
        return self

    def warning(self, event: str, **facts: Any) -> None:
        """Keep a line."""
        self.events.append((event, facts))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where a worker's sample goes."""
    return tmp_path / "samples.jsonl.0"


@pytest.fixture
def writer(path: Path) -> Iterator[SampleWriter]:
    """Yield what writes there."""
    writer = SampleWriter(path, structlog.get_logger())
    yield writer
    writer.close()


def lines_of(path: Path, writer: SampleWriter) -> list[dict[str, Any]]:
    """Return what was written, once all is."""
    writer.close()
    return [json.loads(line) for line in path.read_text().splitlines()]


def bodies(client: TestClient, count: int) -> list[bytes]:
    """Return requests that differ."""
    return [Samples(client.plan).body(seed) for seed in range(count)]


def test_sample_says_what_was_served(pipeline_of: Callable[[str], Pipeline], path: Path, writer: SampleWriter) -> None:
    """The request as it was, every feature by its name, the provenance of each view, and the score."""
    pipeline = pipeline_of("payment")
    with TestClient(pipeline, clock=ManualClock()) as client:
        recorder = Sampler(pipeline, "r1", writer, ManualClock(wall_ns=1_750_000_000 * 10**9))
        client.put(pipeline.views[0], 0, avg_amount=12.5)
        (body,) = bodies(client, 1)
        batch = client.run([body])
        recorder.record(batch, 0)
    (sample,) = lines_of(path, writer)
    assert sample["time"] == "2025-06-15T15:06:40Z"
    assert (sample["pipeline"], sample["release"]) == ("payment", "r1")
    assert sample["request"].items() >= json.loads(body).items()
    assert sample["score"] == pytest.approx(float(batch.scores[0]))
    assert set(sample["provenance"]) == {view.__name__ for view in pipeline.views}
    assert set(sample["provenance"].values()) <= {"fresh", "default"}
    assert sample["features"]["amount"] == json.loads(body)["amount"]
    assert "CustomerProfile.avg_amount" in sample["features"]


def test_sample_of_a_request_of_many_rows_has_lists(
    pipeline_of: Callable[[str], Pipeline], path: Path, writer: SampleWriter
) -> None:
    """An item a row, of features, provenance and score; values of the request's own entity are repeated."""
    pipeline = pipeline_of("ranking")
    with TestClient(pipeline, clock=ManualClock()) as client:
        recorder = Sampler(pipeline, "r1", writer, ManualClock())
        recorder.record(client.run([json.dumps({"user_id": 1, "item_ids": [1, 2, 3]}).encode()]), 0)
    (sample,) = lines_of(path, writer)
    assert sample["features"]["UserProfile.affinity"] == [0.5] * 3
    assert sample["provenance"] == {"UserProfile": ["default"] * 3, "ItemProfile": ["default"] * 3}
    assert len(sample["score"]) == 3


def test_sample_is_bounded_in_rows_and_in_batches_a_second(
    pipeline_of: Callable[[str], Pipeline], path: Path, writer: SampleWriter
) -> None:
    """A batch a tenth of a second, and its first rows."""
    pipeline = pipeline_of("payment")
    with TestClient(pipeline, clock=ManualClock()) as client:
        recorder = Sampler(pipeline, "r1", writer, ManualClock())
        batch = client.run(bodies(client, ROWS_MAX + 5))
        for moment_ns in (0, 1, _INTERVAL_NS - 1, _INTERVAL_NS, 2 * _INTERVAL_NS):
            recorder.record(batch, moment_ns)
    assert len(lines_of(path, writer)) == 3 * ROWS_MAX


def test_batch_that_failed_is_not_sampled(
    pipeline_of: Callable[[str], Pipeline], path: Path, writer: SampleWriter
) -> None:
    """It was answered with an error, and has no features."""
    pipeline = pipeline_of("payment")
    recorder = Sampler(pipeline, "r1", writer, ManualClock())
    recorder.record(Batch([], 0, 0, marks_ns=[0]), 0)
    assert lines_of(path, writer) == []


def test_sample_is_readable_by_its_owner_alone(path: Path, writer: SampleWriter) -> None:
    """It holds what callers sent."""
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_full_disk_costs_the_sample_and_a_line_in_the_log() -> None:
    """Whoever puts is not told, and does not wait."""
    log = Log()
    writer = SampleWriter(Path("/dev/full"), log)
    for _ in range(3):
        writer.put(lambda: [b"{}"])
    writer.close()
    assert writer.lost == 3
    assert [event for event, _ in log.events] == ["samples are lost"]
    assert "No space left" in log.events[0][1]["error"]


def test_disk_that_hangs_bounds_what_waits(path: Path) -> None:
    """What is over the limit is lost at once, and told in one line: the writer itself hangs, and tells nothing."""
    log = Log()
    writer = SampleWriter(path, log)
    begun, go_on = threading.Event(), threading.Event()

    def hang() -> list[bytes]:
        begun.set()
        go_on.wait(30)
        return [b"1"]

    writer.put(hang)
    assert begun.wait(30)
    for _ in range(samples.WAITING_MAX + 7):
        writer.put(lambda: [b"2"])
    assert writer.lost == 7
    assert [(event, facts["lost"]) for event, facts in log.events] == [("samples are lost", 1)]
    assert "does not keep up" in log.events[0][1]["error"]
    go_on.set()
    writer.close()
    assert len(path.read_bytes().splitlines()) == samples.WAITING_MAX + 1


def test_line_that_was_cut_short_costs_no_other(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one begins on a line of its own, and a reader passes over the torn one."""
    writer = SampleWriter(path, Log())
    write, cut = os.write, [True]

    def write_half(descriptor: int, data: bytes) -> int:
        half = data[: len(data) // 2] if cut.pop() else data
        cut.append(False)
        return write(descriptor, half)

    monkeypatch.setattr(samples.os, "write", write_half)
    line = b'{"time":"2025-06-15T12:00:00Z","pipeline":"p","release":"r","request":{},"features":{},"provenance":{},'
    line += b'"score":1}'
    for _ in range(3):
        writer.put(lambda: [line])
    writer.close()
    found = list(read_samples([path]))
    assert [each is None for each in found] == [True, False, False]
    assert writer.lost == 1


def test_file_that_is_full_ends_the_sample(path: Path) -> None:
    """It is told once, and the file stays as it is."""
    log = Log()
    writer = SampleWriter(path, log, file_bytes_max=20)
    for _ in range(9):
        writer.put(lambda: [b"12345678"])
    writer.close()
    assert path.stat().st_size == 18
    assert [event for event, _ in log.events] == ["the sample has ended"]


def test_sample_that_cannot_be_written_is_an_error_at_the_first_start_only(tmp_path: Path) -> None:
    """A worker that comes back serves, whatever has become of the folder."""
    absent = tmp_path / "absent" / "samples.jsonl.0"
    with pytest.raises(SetupError, match="the sample cannot be written"):
        SampleWriter(absent, Log())
    writer = SampleWriter(absent, Log(), refuse=False)
    writer.put(lambda: [b"lost"])
    absent.parent.mkdir()
    writer.close()
    with pytest.raises(SetupError, match="no such sample"):
        sample_files(tmp_path / "none.jsonl")


def test_files_of_all_workers_are_one_sample(tmp_path: Path) -> None:
    """A file by its own name is that file alone."""
    for name in ("s.jsonl.0", "s.jsonl.1", "s.jsonl.old"):
        (tmp_path / name).touch()
    assert [each.name for each in sample_files(tmp_path / "s.jsonl")] == ["s.jsonl.0", "s.jsonl.1"]
    assert sample_files(tmp_path / "s.jsonl.1") == [tmp_path / "s.jsonl.1"]
