"""Drift is watched beside the log: counted, told, kept over the observer's death, and in nobody's way."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace as replace_struct
from serving import Server, fetch, serving, wait_for
from structlog.testing import capture_logs

from monitor.alerts.alert_receiver import Receiver
from monitor.drift.predicted import predictions
from tailrace.inference.drift import Drift
from tailrace.monitor.drift.findings import Finding, Findings
from tailrace.monitor.drift.pipelines import PipelineDrift
from tailrace.monitor.layout import observer_layout
from tailrace.monitor.observed import Observed
from tailrace.monitor.shared import MetricBlock
from tailrace.pipeline import Pipeline
from tailrace.release.pinned import Pin
from tailrace.server.observing.drift import LOG_S, STANDS_S, ObservedDrift

LIMIT_S = 30.0


@pytest.fixture
def file(pipelines_dir: Path, tmp_path: Path) -> Path:
    """Return a pipeline whose model was packaged on amounts of 0.5 to 2, watched every second."""
    text = (pipelines_dir / "log.py").read_text().partition("log_with_fallback")[0]
    drift = 'drift=tr.Drift("1s", rows_min=30, season=None),\n    budget='
    (tmp_path / "log.py").write_text(text.replace("budget=", drift))
    shutil.copytree(pipelines_dir / "models" / "log", tmp_path / "models" / "log")
    return tmp_path / "log.py"


def ask(server: Server, amount: float, seconds: float) -> None:
    """Ask for some seconds with amounts over the range of 1.5."""
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        for place in range(20):
            assert server.ask("log", {"amount": amount + place * 1.5 / 19}).status == 200
        time.sleep(0.05)


def test_a_fault_ends_nothing_but_the_watch_of_its_pipeline(
    pipeline_of: Callable[[str], Pipeline], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Predictions that cannot be counted raise nothing and are logged once; all is watched on."""
    seconds = iter(np.arange(1.0, 1e6, 1.1).tolist())
    monkeypatch.setattr("time.monotonic_ns", lambda: int(next(seconds) * 1e9))
    log, other = (replace(pipeline_of("log"), name=name, drift=Drift("1s", season=None)) for name in ("log", "other"))
    block = MetricBlock.create(observer_layout(["log", "other"]))
    watch, observed = ObservedDrift(cast(Pin, None), (), tmp_path, block), Observed(at_s=1.0)
    watch._drift = PipelineDrift([log, other])  # what it makes of the pin
    broken = predictions(log, "1", features={"amount": np.array([["no", "number"]], object)})
    for _ in range(3):
        watch.take(predictions(log, "1"))
    with capture_logs() as logged:
        for _ in range(3):
            watch.take(broken)
            watch.take(predictions(log, "1", shift=1.0))
            watch.take(predictions(other, "1", shift=1.0))
            watch.take(predictions(other, "1", shift=1.0))
    assert [each["event"] for each in logged] == ["drift is not watched", "drift"]
    watch.tell(observed)
    assert {name for name, shown in observed.drift.items() if shown.alarmed} == {"other"}
    assert observed.drift["other"].alarmed == 2
    now_s = time.monotonic()
    monkeypatch.setattr("time.monotonic", lambda: now_s + LOG_S)
    for _ in range(4):
        watch.take(predictions(log, "1", shift=1.0))
    watch.tell(observed)
    assert set(observed.drift) == {"log", "other"}
    watch.write()
    assert set(json.loads((tmp_path / "drift.json").read_text())) == {"log", "other"}
    assert {path.stat().st_mode & 0o777 for path in tmp_path.glob("drift.*")} == {0o600}  # it names what was sent
    kept = watch._drift._watched["log"].watch
    assert kept is not None
    assert kept.baselines[0].windows.max() >= 2  # what was learned before the fault


def test_alarm_stands_while_an_observer_is_replaced(
    pipeline_of: Callable[[str], Pipeline], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A successor counts and shows what its predecessor found last, until it knows better; what is old it does not."""
    seconds = iter(np.arange(1.0, 1e6, 1.1).tolist())
    monkeypatch.setattr("time.monotonic_ns", lambda: int(next(seconds) * 1e9))
    log = replace(pipeline_of("log"), drift=Drift("1s", season=None))
    layout = observer_layout(["log"])

    def watching(block: MetricBlock) -> ObservedDrift:
        watch = ObservedDrift(cast(Pin, None), (), tmp_path, block)
        monkeypatch.setattr(watch, "_begin", lambda: PipelineDrift([log]))
        return watch

    before = watching(MetricBlock.create(layout))
    for _ in range(4):
        before.take(predictions(log, "1", shift=1.0))
    before.write()
    block, observed = MetricBlock.create(layout), Observed(at_s=1.0)
    alarms = block.find("tailrace_drift_alarms", "log", "feature").offset
    after = watching(block)
    after.take(predictions(log, "1"))
    after.tell(observed)
    assert (block.cells[alarms], observed.drift["log"].alarmed) == (1, 2)
    now_s = time.time()
    monkeypatch.setattr("time.time", lambda: now_s + STANDS_S + 1)
    late = watching(MetricBlock.create(layout))
    late.take(predictions(log, "1"))
    late.tell(observed)
    assert observed.drift == {}


def test_alarm_of_a_cycle_stands_over_two_restarts(
    pipeline_of: Callable[[str], Pipeline], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A day ends once a day: what it said is told, and written on, until the next one ends."""
    seconds = iter(np.arange(1.0, 1e6, 1.1).tolist())
    monkeypatch.setattr("time.monotonic_ns", lambda: int(next(seconds) * 1e9))
    log = replace(pipeline_of("log"), drift=Drift("1s", season=None))
    facts: dict[str, Any] = {"started_s": time.time() - 60, "ended_s": time.time(), "rows": 600, "learning": 0}
    amount = Finding(series="amount", kind="feature", rows=600, statistics={"mean": 1.0}, psi_threshold=0.1)
    day = replace_struct(amount, alarms=("mean",))
    others = [
        replace_struct(amount, series=name, kind=kind) for name, kind in (("score", "score"), ("Profiles", "view"))
    ]
    found = {
        "window": Findings(span="window", findings=(amount, *others), **facts),
        "cycle": Findings(span="cycle", findings=(day, *others), **facts),
    }
    (tmp_path / "drift.json").write_bytes(msgspec.json.encode({"log": found}))
    for _ in range(2):
        block = MetricBlock.create(observer_layout(["log"]))
        watch = ObservedDrift(cast(Pin, None), (), tmp_path, block)
        monkeypatch.setattr(watch, "_begin", lambda: PipelineDrift([log]))
        for _ in range(3):
            watch.take(predictions(log, "1"))
        assert block.cells[block.find("tailrace_drift_alarms", "log", "feature").offset] == 1
        watch.write()
        assert set(json.loads((tmp_path / "drift.json").read_text())["log"]) == {"window", "cycle"}


@pytest.mark.slow
def test_a_feature_that_shifts_is_an_alarm(file: Path, tmp_path: Path) -> None:
    """The gauge says so, the log names it, the file has its figures, and a killed observer has a successor."""
    log = tmp_path / "log"
    with serving(tmp_path / "out", file, "--log", str(log)) as server:
        ask(server, 0.5, 5)
        assert server.metric("tailrace_drift_alarms", 'kind="feature"') == 0
        ask(server, 5.0, 6)
        wait_for(lambda: server.metric("tailrace_drift_alarms", 'kind="feature"') == 1, LIMIT_S)
        assert server.metric("tailrace_drift_alarms", 'kind="score"') == 1
        told = wait_for(lambda: server.events("drift"), LIMIT_S)
        assert set(told[0]["series"]) >= {"amount"}
        wait_for((log / "drift.kept").is_file, LIMIT_S)
        found = json.loads((log / "drift.json").read_text())["log"]["window"]["findings"]
        assert next(each for each in found if each["series"] == "amount")["statistics"]["mean"] > 3
        (pid,) = (each["pid"] for each in server.companions() if each["name"] == "observer")
        os.kill(pid, signal.SIGKILL)
        ask(server, 5.0, 8)
        wait_for(lambda: server.metric("tailrace_drift_alarms", 'kind="feature"') == 1, LIMIT_S)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_drift_without_a_log_is_shown_told_and_over(file: Path, tmp_path: Path) -> None:
    """With `--observe` alone: the status has the worst series, the alert names it, and both end with the drift."""
    receiver = Receiver()
    try:
        with serving(tmp_path / "out", file, "--observe", "--alert-webhook", receiver.url) as server:

            def told(start: str) -> list[str]:
                return [post["text"] for _, post in receiver.taken if post["text"].startswith(start)]

            ask(server, 0.5, 16)  # twelve windows are a baseline
            assert not receiver.taken
            ask(server, 5.0, 6)
            shown = json.loads(fetch(f"{server.admin}/status")[2])["drift"]["log"]
            assert shown["alarmed"] == 3
            assert {each["series"] for each in shown["series"]} == {"amount", "score", "decision"}
            assert len(shown["series"][0]["mean"]) > 12
            wait_for(lambda: len(told("TICKET log")) == 2, LIMIT_S)
            causes = "; ".join(told("TICKET log"))
            assert re.search(
                r"1 feature, 1 score and 1 decision are [^;]*: (amount|score|decision) most, [a-z]+ [+-]?[\d.]+", causes
            )
            assert re.search(
                r"1 score[^;]* beyond two standard deviations of their baseline: (score|decision) [+-]", causes
            )
            ask(server, 0.5, 8)
            wait_for(lambda: len(told("RESOLVED log")) == 2, 90)
    finally:
        receiver.close()


@pytest.mark.slow
def test_drift_that_cannot_be_watched_leaves_the_log_alone(file: Path, tmp_path: Path) -> None:
    """What was kept is no file of ours, and what is found cannot be written: requests are logged as ever."""
    log = tmp_path / "log"
    (log / "drift.json.part").mkdir(parents=True)
    (log / "drift.kept").write_bytes(b"\xc1 no")
    with serving(tmp_path / "out", file, "--log", str(log)) as server:
        ask(server, 0.5, 4)
        wait_for(lambda: server.metric("tailrace_predictions_logged_total") > 30, LIMIT_S)
        assert wait_for(lambda: server.events("what drift has found is not written"), LIMIT_S)
        logged = server.metric("tailrace_predictions_logged_total")
        ask(server, 0.5, 2)
        wait_for(lambda: server.metric("tailrace_predictions_logged_total") > logged, LIMIT_S)
        (log / "drift.json.part").rmdir()  # and once it can, it is
        ask(server, 0.5, 1)
        wait_for((log / "drift.json").is_file, LIMIT_S)
        assert server.metric("tailrace_predictions_lost_total") == 0
        assert not server.events("drift is not watched")
