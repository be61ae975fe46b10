from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from tailrace.errors import ModelPackageError
from tailrace.offline.optimize.journal import LINES_FILE, Journal, Proposed, Trial
from tailrace.offline.optimize.processes import Limits
from tailrace.offline.optimize.recipes import AS_PACKAGED, Recipe

LIMITS = Limits()
TRIAL = Trial(recipe=Recipe(kind="float16"), backend="ONNX Runtime", status="failed", why="it was ended by SIGKILL")


def begin(folder: Path, key: str = "k", limits: Limits = LIMITS) -> tuple[bool, Journal]:
    """Return whether a run goes on in a folder, and its journal."""
    journal = Journal(folder)
    resumed = journal.begin(key, limits)
    journal.baseline.mkdir(exist_ok=True)
    return resumed, journal


def test_finished_work_is_taken_up(tmp_path: Path) -> None:
    """A run that was killed finds what it was to try and measured."""
    resumed, journal = begin(tmp_path / "work")
    with closing(journal):
        assert not resumed
        journal.note(Proposed((AS_PACKAGED, TRIAL.recipe)))
        journal.note(TRIAL)
    resumed, journal = begin(tmp_path / "work")
    with closing(journal):
        assert resumed
        assert journal.proposed == (AS_PACKAGED, TRIAL.recipe)
        assert journal.find(TRIAL.recipe, "ONNX Runtime") == TRIAL
        assert journal.find(AS_PACKAGED, "ONNX Runtime") is None


def test_what_was_skipped_is_tried_again(tmp_path: Path) -> None:
    """The library that was missing may be there by now; what was measured stays."""
    measured = Trial(recipe=AS_PACKAGED, backend="ONNX Runtime", status="measured")
    _, journal = begin(tmp_path)
    with closing(journal):
        journal.note(measured)
        journal.note(Trial(recipe=AS_PACKAGED, backend="LightGBM", status="skipped", why="pip install lightgbm"))
    resumed, journal = begin(tmp_path)
    with closing(journal):
        assert (resumed, journal.trials) == (True, [measured])


def test_line_that_was_cut_short_is_measured_again(tmp_path: Path) -> None:
    """The last line of a killed run may be half of one: it counts as not written, and no other is lost."""
    _, journal = begin(tmp_path)
    with closing(journal):
        journal.note(Proposed((AS_PACKAGED,)))
        journal.note(TRIAL)
    path = tmp_path / LINES_FILE
    path.write_bytes(path.read_bytes()[:-20])
    resumed, journal = begin(tmp_path)
    with closing(journal):
        assert (resumed, journal.proposed, journal.trials) == (True, (AS_PACKAGED,), [])
        journal.note(TRIAL)
    _, journal = begin(tmp_path)
    with closing(journal):
        assert journal.trials == [TRIAL]


def test_changed_input_starts_anew(tmp_path: Path) -> None:
    """What was measured of another model, file or question counts for nothing, and its models go."""
    _, journal = begin(tmp_path)
    with closing(journal):
        journal.note(TRIAL)
        (journal.models / "float16").mkdir()
    resumed, journal = begin(tmp_path, "another")
    with closing(journal):
        assert (resumed, journal.trials) == (False, [])
        assert not (journal.models / "float16").exists()


def test_folder_of_other_things_is_left_alone(tmp_path: Path) -> None:
    """A folder that holds models of someone's is no work folder, and nothing of it is removed."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "fraud").write_text("precious")
    with pytest.raises(ModelPackageError, match="holds other things"):
        Journal(tmp_path)
    assert (tmp_path / "models" / "fraud").read_text() == "precious"


def test_second_run_in_the_folder_is_refused(tmp_path: Path) -> None:
    """Two runs would write over each other."""
    with closing(Journal(tmp_path)), pytest.raises(ModelPackageError, match="another run works there"):
        Journal(tmp_path)


def test_failure_under_other_limits_is_tried_again(tmp_path: Path) -> None:
    """What took too much memory is remembered for as long as no more is allowed."""
    failed = Trial(recipe=TRIAL.recipe, backend="", status="failed", why="memory", limits=Limits(300.0, 100))
    _, journal = begin(tmp_path, limits=Limits(300.0, 100))
    with closing(journal):
        journal.note(failed)
    _, journal = begin(tmp_path, limits=Limits(300.0, 100))
    with closing(journal):
        assert journal.trials == [failed]
    resumed, journal = begin(tmp_path, limits=Limits(300.0, 200))
    with closing(journal):
        assert (resumed, journal.trials) == (True, [])
