"""Watches beside each other in the observer: none waits for another one's disk."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("pyarrow")
from tailrace.monitor.layout import observer_layout
from tailrace.monitor.observed import Observed
from tailrace.monitor.prediction_counts import PredictionCounts
from tailrace.monitor.shared import MetricBlock
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

    observer = Observer(SimpleNamespace(say_observed=say))  # type: ignore[arg-type]
    observer._rings, observer._watches = [], (watch,)
    asyncio.run(asyncio.wait_for(observer._write(), 10))
    assert len(said) == watch.told >= 4
    assert [each.at_s for each in said] == sorted(each.at_s for each in said)


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
    frame: Any = SimpleNamespace(pipeline="fraud", release="r1", rows=5, requests=[b"{}"] * 5, choice=None)
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
