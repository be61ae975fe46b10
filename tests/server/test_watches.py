"""Watches beside each other in the observer: none waits for another one's disk."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from collections import Counter, deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from structlog import get_logger
from structlog.testing import capture_logs

pytest.importorskip("pyarrow")
from tailrace.monitor.counts.prediction import PredictionCounts
from tailrace.monitor.layout import observer_layout
from tailrace.monitor.observed import Observed
from tailrace.monitor.shared import MetricBlock, make_block_fd
from tailrace.release.pinned import Pin
from tailrace.server.control import CompanionAssignment
from tailrace.server.observing import log as observed_log
from tailrace.server.observing.log import ObservedLog
from tailrace.server.observing.observer import Observer
from tailrace.server.options import ServeOptions


class Hanging:
    """A watch whose disk takes nothing until it is let go."""

    def __init__(self) -> None:
        self.goes_on = threading.Event()
        self.told = 0

    def take(self, predictions: Any) -> None:
        """Hear of nothing."""

    def write(self) -> None:
        """Wait for the disk."""
        self.goes_on.wait(20)

    def tell(self, observed: Observed) -> None:
        """Count how often it is asked."""
        self.told += 1

    def close(self) -> None:
        """Let go of nothing."""


def test_disk_that_hangs_silences_no_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is observed is said again and again while a write hangs, and once more after it."""
    monkeypatch.setattr("tailrace.server.observing.observer.WRITE_S", 0.01)
    said: list[Observed] = []
    watch = Hanging()

    def say(observed: Observed) -> bool:
        said.append(observed)
        if len(said) == 3:
            watch.goes_on.set()
        return True

    observer = Observer(SimpleNamespace(say_observed=say, log=get_logger()))  # type: ignore[arg-type]
    observer._rings, observer._watches = [], (watch,)
    asyncio.run(asyncio.wait_for(observer._write(), 10))
    assert len(said) == watch.told >= 4
    assert [each.at_s for each in said] == sorted(each.at_s for each in said)


class Failing(Hanging):
    """A watch that cannot do anything."""

    def take(self, predictions: Any) -> None:
        """Fail."""
        raise KeyError("amount")

    def tell(self, observed: Observed) -> None:
        """Fail, too."""
        raise ZeroDivisionError


class Taking(Hanging):
    """A watch that notes what it hears."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[Any] = []

    def take(self, predictions: Any) -> None:
        """Note them."""
        self.heard.append(predictions)


def test_a_pipelines_file_is_run_once(tmp_path: Path, pipelines_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many watches want to know what is declared: a file may take long, or do what is to be done once."""
    monkeypatch.setattr("tailrace.server.observing.observer.give_way", lambda nice: None)
    text = (pipelines_dir / "log.py").read_text()
    shutil.copytree(pipelines_dir / "models" / "log", tmp_path / "models" / "log")
    runs, path = tmp_path / "runs", str(tmp_path)
    (tmp_path / "log.py").write_text(f"{text}\nwith open({str(runs)!r}, 'a') as ran:\n    ran.write('x')\n")
    pin = Pin(root=path, folder=path, number=0, files=(f"{path}/log.py",), folders=((path, path),))
    options = ServeOptions(files=(f"{path}/log.py",), log=str(tmp_path / "logged"), traces="http://127.0.0.1:9")
    fd = make_block_fd("observer")
    try:
        task = CompanionAssignment(metrics_fd=fd, options=options, pin=pin, ring_fds=())
        observer = Observer(SimpleNamespace(task=task, log=get_logger()))  # type: ignore[arg-type]
        observer._prepare()
    finally:
        os.close(fd)
    assert (len(observer._watches), runs.read_text()) == (7, "x")


def test_watch_that_fails_costs_no_other() -> None:
    """What it cannot hear or tell of is logged once a minute; the one behind it hears of all, and all is said."""
    said: list[Observed] = []
    with capture_logs() as logged:
        observer = Observer(SimpleNamespace(say_observed=lambda each: not said.append(each), log=get_logger()))  # type: ignore[arg-type,func-returns-value]
        observer._frames = SimpleNamespace(read=len)  # type: ignore[assignment]
        behind = Taking()
        observer._watches = (Failing(), behind)
        for data in (b"", b"1"):
            observer._take(data)
            observer._say_observed()
    assert (behind.heard, behind.told, len(said)) == ([0, 1], 2, 2)
    events = [(each["event"], each["error"]) for each in logged]
    assert events == [
        ("Failing cannot hear of predictions", "KeyError('amount')"),
        ("Failing cannot tell of predictions", "ZeroDivisionError()"),
    ]


def test_log_counts_nothing_while_it_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked in the middle of a write that hangs it says nothing; all of it is counted when that is done."""
    goes_on, hangs = threading.Event(), threading.Event()
    monkeypatch.setattr(observed_log, "LoggedReleases", lambda *_: SimpleNamespace(name=lambda _: None))
    block = MetricBlock.create(observer_layout(["fraud"]))
    watch = ObservedLog(tmp_path, ServeOptions(files=("x",)), None, PredictionCounts(block))  # type: ignore[arg-type]

    def hang(pending: deque[Any]) -> None:
        while pending:
            watch._log.logged["fraud"] += len(pending.popleft().requests)
            hangs.set()
            goes_on.wait(20)

    monkeypatch.setattr(watch._log, "write", hang)
    logged = block.find("tailrace_predictions_logged_total", "fraud").offset
    frame: Any = SimpleNamespace(
        pipeline="fraud", release="r1", rows=5, requests=[b"{}"] * 5, choice=None, size_bytes=9
    )
    watch.take(frame)
    writing = threading.Thread(target=watch.write)
    writing.start()
    try:
        assert hangs.wait(10)
        watch.take(frame)
        watch.tell(Observed(at_s=1.0))
        assert block.cells[logged] == 0
    finally:
        goes_on.set()
        writing.join(10)
    watch.tell(Observed(at_s=2.0))
    assert block.cells[logged] == 5
    watch.write()
    watch.tell(Observed(at_s=3.0))
    assert block.cells[logged] == 10


class Refusing:
    """A log that takes nothing of one pipeline."""

    def __init__(self) -> None:
        self.logged: Counter[str] = Counter()
        self.looked = 0

    def write(self, pending: deque[Any]) -> None:
        """Take what is not of it."""
        waiting = [each for each in pending if each.pipeline == "refused"]
        for each in pending:
            self.logged[each.pipeline] += len(each.requests) * (each.pipeline != "refused")
        pending.clear()
        pending.extend(waiting)
        if waiting:
            raise OSError("no room")

    def look(self) -> None:
        """Count how often the files are seen to."""
        self.looked += 1

    def take_unfit(self) -> tuple[int, str]:
        """Return nothing."""
        return 0, ""


def frame_of(pipeline: str, rows: int, size_bytes: int = 1) -> Any:
    """Return predictions as far as the watch looks at them."""
    return SimpleNamespace(
        pipeline=pipeline, release=f"of {pipeline}", rows=rows, requests=[b"{}"] * rows, choice=None,
        size_bytes=size_bytes,
    )  # fmt: skip


@pytest.fixture
def refusing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[ObservedLog, MetricBlock, set[str]]:
    """A log that refuses one pipeline of two, its counts, and the releases that are kept for it."""
    named: set[str] = set()
    monkeypatch.setattr(observed_log, "LoggedReleases", lambda *_: SimpleNamespace(name=named.update))
    monkeypatch.setattr(observed_log, "LogWriter", lambda *_, **__: Refusing())
    block = MetricBlock.create(observer_layout(["fraud", "refused"]))
    options = ServeOptions(files=("x",))
    return ObservedLog(tmp_path, options, None, PredictionCounts(block)), block, named  # type: ignore[arg-type]


def test_log_that_is_refused_takes_a_share_of_the_room(
    refusing: tuple[ObservedLog, MetricBlock, set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other pipeline's lines are written, its releases are kept, and files are seen to, as if nothing was."""
    monkeypatch.setattr(observed_log, "PENDING_MAX", 100)
    watch, block, named = refusing
    for second in range(30):
        watch.take(frame_of("refused", 10))
        watch.take(frame_of("fraud", 10))
        with pytest.raises(OSError, match="no room"):
            watch.write()
        watch.tell(Observed(at_s=float(second)))
    lost = block.cells[block.find("tailrace_predictions_lost_total", "unwritten").offset]
    logged = block.cells[block.find("tailrace_predictions_logged_total", "fraud").offset]
    assert (logged, lost, named) == (300, 200, {"of fraud"})
    assert [each.pipeline for each in watch._pending] == ["refused"] * 10
    assert watch._log.looked == 30  # type: ignore[attr-defined]


def test_what_waits_for_the_disk_is_bounded_in_bytes(
    refusing: tuple[ObservedLog, MetricBlock, set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests may be long: a few thousand of them would take all memory that there is."""
    monkeypatch.setattr(observed_log, "PENDING_BYTES_MAX", 1_000)
    watch, block, _ = refusing
    for _ in range(5):
        watch.take(frame_of("refused", 1, size_bytes=300))
    assert len(watch._pending) == 3
    assert block.cells[block.find("tailrace_predictions_lost_total", "unwritten").offset] == 2
