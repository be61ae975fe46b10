"""A log of ten million lines is asked in bounded memory."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from log_writers import HOUR_S, NOON_S, Now, at, ns, writers

FILES = 100
FILE_ROWS = 100_000
MEMORY_MB_MAX = 700
"""Python, Arrow and DuckDB take 200 of it before they have read a line."""


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a log of a hundred hours, whose files have the lines of one."""
    root, now = tmp_path_factory.mktemp("large") / "log", Now()
    with writers(root, now) as write:
        files = write()
        for first in range(0, FILE_ROWS, 10_000):
            answered = ns(0) + np.arange(10_000) * 1_000_000
            files.write([at(0, first, 10_000, answered_ns=answered, degraded=np.zeros(10_000, np.uint8))])
        files.seal()
    (file,) = root.rglob("*.parquet")
    for hour in range(1, FILES):
        made_us = int((NOON_S + hour * HOUR_S) * 1e6)
        folder = root / "fraud" / f"2025-06-{17 + hour // 24}T{hour % 24:02}"
        folder.mkdir()
        shutil.copy(file, folder / f"{made_us}-{os.getpid()}-{hour}.parquet")
    return root


def run(*arguments: str, out: Path) -> int:
    """Run the command line with its output in a file; return the most memory that it took, in MiB."""
    with out.open("wb") as file:
        command = [sys.executable, "-m", "tailrace.cli.main", *arguments]
        actions = [(os.POSIX_SPAWN_DUP2, file.fileno(), 1)]
        pid = os.posix_spawn(sys.executable, command, os.environ, file_actions=actions)
        _, status, usage = os.wait4(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, arguments
    return usage.ru_maxrss >> 10


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (("-n", "20"), 21),
        (("--sql", "SELECT decision, count(*) n, quantile_cont(score, 0.99) q FROM log GROUP BY 1", "--json"), 1),
        (("--sql", "SELECT request_id, count(*) n FROM log GROUP BY 1 ORDER BY n DESC LIMIT 3", "--json"), 3),
        (("--json", "--columns", "request_id", "--where", "features.amount < 5"), 5 * FILES),
    ],
    ids=["last", "quantile", "many groups", "few of many"],
)
def test_ten_million_lines_are_asked_in_bounded_memory(
    log: Path, tmp_path: Path, arguments: tuple[str, ...], lines: int
) -> None:
    """Whether the last of them are wanted, or what all come to."""
    out = tmp_path / "out"
    assert run("logs", str(log), *arguments, "--memory-mb", "400", out=out) <= MEMORY_MB_MAX
    assert len(out.read_text().splitlines()) == lines
    if "decision" in arguments[1]:
        assert json.loads(out.read_text())["n"] == FILES * FILE_ROWS


@pytest.mark.slow
def test_all_ten_million_lines_are_written(log: Path, tmp_path: Path) -> None:
    """A part at a time."""
    out = tmp_path / "all.parquet"
    told = tmp_path / "out"
    arguments = ("--parquet", str(out), "--columns", "time,request_id,score", "--memory-mb", "400")
    assert run("logs", str(log), *arguments, out=told) <= MEMORY_MB_MAX
    assert told.read_text() == f"{out}: {FILES * FILE_ROWS:,} lines\n"
