"""The fraud example from end to end, in a folder of its own: prepared once, served, replayed, and gone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

FRAUD = Path(__file__).parents[2] / "examples" / "fraud"
MARK = "TAILRACE_TEST"
SMALL = ("--customers", "200", "--terminals", "600", "--days", "60")


def run(home: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script of the copied example to its end."""
    command = [sys.executable, str(home / "examples" / "fraud" / script), *arguments]
    env = {**os.environ, "COLUMNS": "100", "PYTHONDONTWRITEBYTECODE": "1", MARK: str(home)}
    return subprocess.run(command, capture_output=True, text=True, timeout=110, check=False, cwd=home, env=env)


def copy_example(home: Path) -> Path:
    """Copy the example into a folder, where it builds beside itself."""
    shutil.copytree(FRAUD, home / "examples" / "fraud", ignore=shutil.ignore_patterns("__pycache__"))
    return home


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which the example was prepared from a small simulation."""
    home = copy_example(tmp_path_factory.mktemp("home"))
    prepared = run(home, "prepare.py", *SMALL)
    assert prepared.returncode == 0, prepared.stderr
    return home


def processes_of(home: Path) -> list[int]:
    """Return the pids of what was started by `run` and is not gone, known by a variable that each inherits."""
    mark, found = f"{MARK}={home}".encode(), []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if mark in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found


def test_prepare_writes_what_is_served(home: Path) -> None:
    """Model, store, replay and labels stand under build/fraud, and every replayed payment has its label."""
    build = home / "build" / "fraud"
    manifest = json.loads((build / "model" / "manifest.json").read_text())
    assert len(manifest["signature"]["inputs"][0]["features"]) == 40
    assert manifest["metrics"]["roc_auc"] > 0.6
    nightly = json.loads((build / "nightly" / "manifest.json").read_text())
    assert len(nightly["signature"]["inputs"][0]["features"]) == 24
    bodies = [json.loads(line) for line in (build / "replay.jsonl").read_text().splitlines()]
    labels = pq.read_table(build / "replay_labels.parquet")
    assert [body["transaction_id"] for body in bodies] == labels["transaction_id"].to_pylist()
    assert manifest["metrics"]["positives"] == pc.sum(labels["is_fraud"]).as_py()
    assert 0 < pc.sum(labels["nightly_stopped"]).as_py() < labels.num_rows / 2


def test_prepare_again_keeps_what_is_there(home: Path) -> None:
    """The same inputs on the same day make nothing anew; other inputs do."""
    stamp = home / "build" / "fraud" / "prepared.json"
    before = stamp.read_text()
    again = run(home, "prepare.py", *SMALL)
    if json.loads(before)["cutoff"] != json.loads(stamp.read_text())["cutoff"]:
        pytest.skip("midnight passed between the two runs")
    assert "Prepared before" in again.stdout
    assert stamp.read_text() == before


def test_prepare_of_missing_file(tmp_path: Path) -> None:
    """A file that is not there is told by its name, and nothing is left that looks prepared."""
    home = copy_example(tmp_path)
    refused = run(home, "prepare.py", "--data", str(tmp_path / "absent.parquet"))
    assert refused.returncode == 1
    assert "absent.parquet: there is no such file" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not (home / "build" / "fraud" / "prepared.json").exists()


@pytest.mark.slow  # all of it again, from a file
def test_prepare_of_shared_data(shared_data: Path, tmp_path: Path) -> None:
    """The Handbook's own payments are moved to today, and a model of them finds their fraud."""
    table = pq.read_table(shared_data)
    pq.write_table(table.filter(pc.less(table["CUSTOMER_ID"], 400)), tmp_path / "part.parquet")
    prepared = run(copy_example(tmp_path), "prepare.py", "--data", str(tmp_path / "part.parquet"))
    assert prepared.returncode == 0, prepared.stderr
    assert "weeks (weekday and hour kept)" in prepared.stdout
    stamp = json.loads((tmp_path / "build" / "fraud" / "prepared.json").read_text())
    assert stamp["metrics"]["roc_auc"] > 0.7


def test_demo_serves_what_was_trained(home: Path) -> None:
    """The demonstration replays payments and labels, gets offline's own scores, and leaves no process."""
    shown = run(home, "demo.py", *SMALL, "--rate", "100", "--seconds", "3")
    assert shown.returncode == 0, shown.stderr
    difference = shown.stdout.replace("\n", " ").partition("scores differ by at most")[2].split()[0].rstrip(".")
    assert float(difference) < 1e-5
    for heading in ("Decisions", "Fraud by amount", "last night's", "hourly batch", "The budget", "inference"):
        assert heading in shown.stdout
    assert processes_of(home) == []
    tailrace, command, pipeline, *_ = shown.stdout.partition("Serve it yourself:")[2].split()
    assert command == "serve"
    checked = subprocess.run([tailrace, "check", pipeline], capture_output=True, timeout=60, check=False, cwd=home)
    assert checked.returncode == 0, "the command that is shown works where it was shown"


def test_demo_of_broken_model(home: Path) -> None:
    """A model file cut short ends the demonstration with that reason, and leaves no process."""
    model = home / "build" / "fraud" / "model" / "model.onnx"
    whole = model.read_bytes()
    model.write_bytes(whole[:1_000])
    try:
        shown = run(home, "demo.py", *SMALL, "--rate", "100", "--seconds", "1")
    finally:
        model.write_bytes(whole)
    assert shown.returncode == 1
    assert "model" in shown.stderr
    assert "Traceback" not in shown.stderr
    assert processes_of(home) == []
