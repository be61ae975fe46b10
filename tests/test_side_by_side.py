"""The order of a run on several cores: files side by side, and then what must have the machine for itself."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import pytest

import side_by_side
from side_by_side import ALONE, FIRST

ROOT = Path(__file__).parents[1]
CONFTEST = """
import json, sys, time
import pytest
sys.path.insert(0, {folder!r})
import side_by_side

side_by_side.ALONE = ("alone*.py",)

@pytest.hookimpl
def pytest_xdist_make_scheduler(config, log):
    return side_by_side.SideBySide(config, log)

@pytest.fixture(autouse=True)
def _told(request):
    began_s = time.monotonic()
    yield
    with open("told", "a") as told:
        told.write(json.dumps([request.node.path.name, began_s, time.monotonic()]) + "\\n")
"""
TESTS = """
import os, signal, time, pytest

@pytest.mark.parametrize("nth", range({tests}))
def test_it(nth):
    time.sleep(0.05)
"""


def run_files(folder: Path, files: dict[str, int]) -> list[tuple[str, float, float]]:
    """Run files of so many tests on two cores; return each test's file, begin and end, in order of their begin."""
    (folder / "conftest.py").write_text(CONFTEST.format(folder=str(ROOT / "tests")))
    for name, tests in files.items():
        (folder / f"{name}.py").write_text(TESTS.format(tests=tests))
    command = [sys.executable, "-m", "pytest", "-n", "2", "-q", *(f"{name}.py" for name in files)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout
    assert f"{sum(files.values())} passed" in done.stdout
    told = [json.loads(line) for line in (folder / "told").read_text().splitlines()]
    return sorted((name.removesuffix(".py"), begin, end) for name, begin, end in told)


@pytest.mark.parametrize(
    "files",
    [
        {"alone_a": 2, "b": 6, "c": 4, "alone_d": 9, "e": 1},
        pytest.param({"alone_a": 3, "b": 3}, marks=pytest.mark.slow),
        pytest.param({"alone_a": 2, "alone_b": 4}, marks=pytest.mark.slow),
    ],
)
def test_nothing_runs_beside_what_is_to_be_alone(tmp_path: Path, files: dict[str, int]) -> None:
    """All run once; others run before it, those of one file one after the other."""
    told = run_files(tmp_path, files)
    beside = False
    for one, other in combinations(told, 2):
        overlap = one[1] < other[2] and other[1] < one[2]
        beside |= overlap
        assert not (overlap and one[0] == other[0])
        assert not (overlap and "alone" in one[0] + other[0])
    assert beside == (len([name for name in files if "alone" not in name]) > 1)
    last_s = max((end for name, _, end in told if "alone" not in name), default=0.0)
    assert all(begin > last_s for name, begin, _ in told if "alone" in name)


@pytest.mark.parametrize("pattern", [*ALONE, *FIRST])
def test_pattern_names_a_file(pattern: str) -> None:
    """What has a place of its own in the order is there, under this name."""
    found = list(ROOT.glob(pattern))
    assert found
    assert all(side_by_side.matches(path.relative_to(ROOT).as_posix(), [pattern]) for path in found)
