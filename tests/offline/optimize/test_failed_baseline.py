"""A baseline that cannot be made or measured ends the run, and no later one remembers it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tailrace.errors import ModelPackageError
from tailrace.offline.optimize import optimizer
from tailrace.offline.optimize.journal import LINES_FILE
from tailrace.offline.optimize.optimizer import optimize
from tailrace.offline.optimize.processes import Limits
from tailrace.offline.optimize.question import Asked
from tailrace.offline.optimize.trial import Done, Make, Measure, Propose


def test_baseline_that_failed_is_not_remembered(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it could not be made or not be measured is told as it is, and the next run begins with it."""
    asked = Asked(model, data, "auc", 0.05, 1_000_000_000, batches=(1,), seconds=0.05)
    real = optimizer.run_apart
    for fails in (Make, Measure):

        def run_apart(work: Propose | Make | Measure, limits: Limits, fails: type = fails) -> Done:
            return Done(failed="it was ended by SIGKILL") if isinstance(work, fails) else real(work, limits)

        monkeypatch.setattr(optimizer, "run_apart", run_apart)
        with pytest.raises(ModelPackageError, match="the model as packaged cannot be measured: it was ended by"):
            optimize(asked, tmp_path / "work")
        assert b'"trial"' not in (tmp_path / "work" / LINES_FILE).read_bytes()
