"""A log is replayed as a sample is: with the features that were served."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from served_log import log_of

import tailrace as tr
from offline.whatif.conftest import payment, put_debt
from offline.whatif.test_whatif import PAYMENTS, flips_of, replay, replay_file
from tailrace.compile.loading import load_pipelines
from tailrace.deadline import NS_PER_S
from tailrace.errors import SetupError
from tailrace.offline.whatif.replay import WEIGHS


def set_column(log: Path, name: str, values: Sequence[float]) -> None:
    """Give the lines of a log's file these values in a column, in turn."""
    (file,) = log.glob("*/*/*.parquet")
    table = pq.read_table(file)
    place, kind = table.schema.get_field_index(name), table.schema.field(name).type
    column = pa.array(np.resize(np.array(values), table.num_rows)).cast(kind)
    pq.write_table(table.set_column(place, name, column), file)


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


def test_log_is_replayed_of_a_time(folder: Path) -> None:
    """Of which there may be none."""
    (declared,) = load_pipelines(folder / "pipeline.py")
    log_of(replace(declared, model=tr.Model("one")), PAYMENTS, folder / "log")
    answered_ns = time.time_ns()
    set_column(folder / "log", "time", [answered_ns // 1_000])
    found = replay_file(folder, folder / "log", since_ns=answered_ns, until_ns=answered_ns + NS_PER_S)
    assert found.requests == len(PAYMENTS)
    for times in ({"since_ns": answered_ns + NS_PER_S}, {"until_ns": answered_ns}):
        with pytest.raises(SetupError, match="it has no requests"):
            replay_file(folder, folder / "log", **times)


@pytest.mark.parametrize(("shares", "warns"), [((1.0, 1.0), False), ((0.1, 0.1), False), ((0.1, 1.0), True)])
def test_log_that_keeps_more_of_what_went_badly_says_so(folder: Path, shares: tuple[float, float], warns: bool) -> None:
    """Its figures are of lines, and some of these stand for ten requests, others for themselves."""
    (declared,) = load_pipelines(folder / "pipeline.py")
    log_of(replace(declared, model=tr.Model("one")), PAYMENTS, folder / "log")
    set_column(folder / "log", "share", shares)
    assert (WEIGHS in replay_file(folder, folder / "log").warnings) is warns


def test_log_of_another_pipeline_is_told(folder: Path) -> None:
    """And so is a directory that is none."""
    (folder / "log" / "else" / "2025-06-16T12").mkdir(parents=True)
    with pytest.raises(SetupError, match="no log of pipeline"):
        replay_file(folder, folder / "log")
