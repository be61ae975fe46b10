from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from offline.optimize.test_verdict import AUC, BASELINE, TERMS, timing, trial
from tailrace.offline.optimize.evidence import Evidence
from tailrace.offline.optimize.journal import Trial
from tailrace.offline.optimize.optimizer import Optimised
from tailrace.offline.optimize.picture import draw_picture, front_of
from tailrace.offline.optimize.question import Asked
from tailrace.offline.optimize.recipes import Recipe
from tailrace.offline.optimize.verdict import judge


def found_of(*trials: Trial) -> Optimised:
    """Return what a run found."""
    asked = Asked(Path("fraud.txt"), Path("rows.parquet"), "auc", 0.001, 20_000_000)
    evidence = Evidence({}, (), np.zeros(0, np.bool_))
    return Optimised(asked, trials, judge(trials, TERMS), AUC, Path("baseline"), None, evidence, None, 0)


def test_picture_is_a_png(tmp_path: Path) -> None:
    """Drawn with a winner, with many marks at one place, and with what could not be measured or is far too slow."""
    pytest.importorskip("matplotlib")
    many = [trial(2.0 + place / 50, metric=0.9 - place / 1e5, recipe=Recipe(kind="float16")) for place in range(5)]
    failed = Trial(recipe=Recipe(), backend="CUDA", status="skipped", why="no GPU")
    draw_picture(found_of(BASELINE, *many, failed, trial(0.02, timings=(timing(0.02),))), tmp_path / "new" / "p.png")
    assert (tmp_path / "new" / "p.png").read_bytes().startswith(b"\x89PNG")


def test_front_is_what_no_other_beats() -> None:
    """A faster one is on it if nothing as fast is better, a slower one if it is better than all that are faster."""
    fast, worse, best = trial(4.0, metric=0.88), trial(3.0, metric=0.87), trial(2.0, metric=0.9)
    assert front_of([best, worse, fast, BASELINE], less=False) == [fast, best]
    assert front_of([best, worse, fast], less=True) == [fast, worse]
