from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import pytest

from tailrace.offline.optimize import processes
from tailrace.offline.optimize.processes import Limits, run_apart
from tailrace.offline.optimize.recipes import AS_PACKAGED, Recipe
from tailrace.offline.optimize.trial import Make


@pytest.fixture
def task(baseline: Path, evidence: Path, tmp_path: Path) -> Make:
    """Return something to do."""
    return Make(str(baseline), str(evidence), AS_PACKAGED, str(tmp_path / "made"))


def test_process_does_its_task(task: Make) -> None:
    """The model is there, whole, when the process has ended."""
    assert run_apart(task, Limits()).failed == ""
    assert (Path(task.out) / "manifest.json").is_file()


def test_process_that_wants_too_much_memory_has_failed(task: Make) -> None:
    """It is refused the memory, and the line says what ended it."""
    task = msgspec.structs.replace(task, recipe=Recipe(kind="optimised graph"))
    done = run_apart(task, Limits(memory_mb=64))
    assert done.failed
    assert not Path(task.out).exists()


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "it was ended by SIGSEGV"),
        ("raise RuntimeError('no kernel for this')", "RuntimeError: no kernel for this"),
        ("import time; time.sleep(60)", "it took more than 0.5 s"),
        ("print('nothing')", "its answer cannot be read"),
    ],
)
def test_process_that_dies_is_a_reason(
    task: Make, program: str, why: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A crash, an exception, a hang and a wrong answer are told, and the run goes on."""
    script = tmp_path / "python"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{program}"\n')
    script.chmod(0o755)
    monkeypatch.setattr(processes.sys, "executable", str(script))
    assert why in run_apart(task, Limits(seconds=0.5)).failed
