"""`tailrace serve --sample-requests`: serves as before, and what it served can be compared with training."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from serving import serving, start_serve

from tailrace.monitor.samples import read_samples, sample_files

RANKING = {"user_id": 1, "item_ids": [4, 5, 6]}


def test_served_requests_are_sampled_to_a_file_of_each_worker(pipelines_dir: Path, tmp_path: Path) -> None:
    """The sample is there once the server has drained, with the release that it served."""
    path = tmp_path / "samples.jsonl"
    options = ("--store", "memory:", "--sample-requests", str(path), "--releases", str(tmp_path / "releases"))
    with serving(tmp_path / "log", pipelines_dir / "ranking.py", *options) as server:
        answer = server.ask("ranking", RANKING, {"X-Trace": "1"})
        assert answer.status == 200
        release = answer.headers["x-release"]
    (file,) = sample_files(path)
    assert file.name == "samples.jsonl.0"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    (sample,) = read_samples([file])
    assert sample is not None
    assert (sample.pipeline, sample.release) == ("ranking", release)
    assert json.loads(bytes(sample.request)).items() >= RANKING.items()
    assert sample.score == pytest.approx(answer.body["score"])


def test_full_disk_costs_no_request(pipelines_dir: Path, tmp_path: Path) -> None:
    """It costs the sample, and a line in the log."""
    path = tmp_path / "samples"
    (tmp_path / "samples.0").symlink_to("/dev/full")
    options = ("--store", "memory:", "--sample-requests", str(path), "--releases", str(tmp_path / "releases"))
    with serving(tmp_path / "log", pipelines_dir / "ranking.py", *options) as server:
        assert server.ask("ranking", RANKING).status == 200
    (line,) = server.events("samples are lost")
    assert "No space left" in line["error"]


def test_sample_in_a_folder_that_is_not_there_is_an_error(pipelines_dir: Path, tmp_path: Path) -> None:
    """A slip of the pen is told before anyone relies on the sample."""
    path = tmp_path / "absent" / "samples"
    options = ("--store", "memory:", "--sample-requests", str(path), "--releases", str(tmp_path / "releases"))
    server = start_serve(tmp_path / "log", pipelines_dir / "ranking.py", *options)
    assert server.process.wait(60) == 1
    assert "the sample cannot be written" in server.log.read_text()
