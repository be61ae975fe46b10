"""Drift is watched beside the log: counted, told, kept over the observer's death, and in nobody's way."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from serving import Server, serving, wait_for

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
