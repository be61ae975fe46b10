"""A log is replayed as a sample is: with the features that were served."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from served_log import log_of

import tailrace as tr
from offline.whatif.conftest import payment, put_debt
from offline.whatif.test_whatif import PAYMENTS, flips_of, replay, replay_file
from tailrace.compile.loading import load_pipelines
from tailrace.errors import SetupError


def test_requests_of_a_log_are_replayed_with_what_they_were_served(folder: Path) -> None:
    """Every request that is in it, with each feature as it was then; the store of now is not read."""
    (declared,) = load_pipelines(folder / "pipeline.py")
    pipeline = replace(declared, model=tr.Model("one"))
    log_of(pipeline, PAYMENTS, folder / "log")
    put_debt(folder, 50.0)
    found = replay_file(folder, folder / "log")
    assert flips_of(found) == flips_of(replay(folder, PAYMENTS))
    assert (found.requests, found.unread.count, found.others.count) == (len(PAYMENTS), 0, 0)
    owing = [payment(100, "owes", customer=1)]
    log_of(pipeline, owing, folder / "other")
    assert flips_of(replay_file(folder, folder / "other", "one", "debt")) == {}
    assert flips_of(replay(folder, owing, "one", "debt")) != {}


def test_log_of_another_pipeline_is_told(folder: Path) -> None:
    """And so is a directory that is none."""
    (folder / "log" / "else" / "2025-06-16T12").mkdir(parents=True)
    with pytest.raises(SetupError, match="no log of pipeline"):
        replay_file(folder, folder / "log")
