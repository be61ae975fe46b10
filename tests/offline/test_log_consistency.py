"""Consistency of what is logged: the same report as of a sample."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from payment_history import FEATURES, Payments
from served_log import log_of, serve_logged
from typer.testing import CliRunner

from tailrace.cli.consistency import consistency
from tailrace.errors import SetupError
from tailrace.monitor.log.reader import LogReader
from tailrace.offline.log.samples import log_samples
from tailrace.pipeline import Pipeline

# Ibis 12 calls what DuckDB 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning")

ROWS = 120
app = typer.Typer()
app.command()(consistency)


@pytest.fixture(scope="module")
def payments(tmp_path_factory: pytest.TempPathFactory) -> Payments:
    """Return payments that were served and logged. Read only."""
    payments = Payments(tmp_path_factory.mktemp("served"), rows=ROWS)
    serve_logged(payments)
    return payments


def told(payments: Payments, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Return the exit code and what the command tells a program."""
    result = CliRunner().invoke(app, [str(payments.file), "--json", *arguments], catch_exceptions=False)
    return result.exit_code, json.loads(result.stdout)


def test_what_was_logged_is_what_training_has(payments: Payments) -> None:
    """Every feature of every line is equal."""
    log = str(payments.folder / "log")
    code, report = told(payments, "--from-log", log)
    assert (code, report["ok"], report["rows"], report["unread"], report["others"]) == (0, True, ROWS, 0, 0)
    assert set(report["features"]) == set(FEATURES)
    assert all(each["exact"] + each["close"] == ROWS for each in report["features"].values())


def test_event_that_came_late_is_told_of_the_log_too(payments: Payments, tmp_path: Path) -> None:
    """With its reason, as of a sample."""
    extra = payments.payments.to_pylist()[ROWS // 2]
    late = [extra | {"transaction_id": 10**6, "amount": 77.0}]
    later = pa.concat_tables([payments.payments, pa.Table.from_pylist(late, payments.payments.schema)])
    pq.write_table(later, tmp_path / "payments.parquet")
    history = ("--history", f"payments={tmp_path / 'payments.parquet'}")
    code, report = told(payments, "--from-log", str(payments.folder / "log"), *history)
    assert code == 1
    assert report["features"]["Activity.count_1d"]["differing"].keys() == {"late event"}


@pytest.mark.slow
def test_time_without_lines_is_told(payments: Payments) -> None:
    """Nothing compared is no success."""
    with pytest.raises(SetupError, match="no sample is of pipeline 'scores'"):
        told(payments, "--from-log", str(payments.folder / "log"), "--until", "2018-01-01")


@pytest.mark.parametrize("arguments", [[], ["--samples", "x", "--from-log", "y"]])
def test_one_origin_must_be_given(payments: Payments, arguments: list[str]) -> None:
    """A sample, or a log."""
    with pytest.raises(SetupError, match="one of --samples and --from-log"):
        told(payments, *arguments)


def test_request_of_many_rows_is_one_sample(pipeline_of: Callable[[str], Pipeline], tmp_path: Path) -> None:
    """With a list of each feature."""
    pipeline = pipeline_of("ranking")
    log_of(pipeline, [{"user_id": user, "item_ids": list(range(user))} for user in (3, 1)], tmp_path)
    first, second = log_samples(LogReader(tmp_path, "ranking"), expands=True)
    assert first is not None
    assert second is not None
    assert json.loads(bytes(first.request))["item_ids"] == [0, 1, 2]
    assert first.features["ItemProfile.price"] == [10.0] * 3
    assert first.provenance["ItemProfile"] == ["default"] * 3
    assert len(second.score) == 1
