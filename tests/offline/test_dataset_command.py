"""`tailrace dataset`: from labelled requests to a training set."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import typer
from payment_history import FEATURES, Payments
from typer.testing import CliRunner, Result

import tailrace as tr
from tailrace.cli.dataset import dataset
from tailrace.errors import SetupError, SourceError

# Ibis 12 calls what DuckDB 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning")


@pytest.fixture(scope="module")
def payments(tmp_path_factory: pytest.TempPathFactory) -> Payments:
    """Return payments with labels in a file beside them. Read only."""
    payments = Payments(tmp_path_factory.mktemp("payments"), rows=100)
    pq.write_table(payments.labelled(), payments.folder / "labelled.parquet")
    return payments


def call(*arguments: str) -> Result:
    """Call the command as a shell would."""
    app = typer.Typer()
    app.command()(dataset)
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


def test_dataset_command_writes_the_set_and_tells_of_it(payments: Payments, tmp_path: Path) -> None:
    """The rows, and what each view's history had."""
    out = tmp_path / "training.parquet"
    requests = payments.folder / "labelled.parquet"
    told = call(str(payments.file), "--requests", str(requests), "--out", str(out))
    assert told.exit_code == 0
    assert f"{out}: 100 rows, {len(FEATURES)} features" in told.stdout
    assert "Activity: from 100 rows" in told.stdout
    assert pq.read_table(out).equals(tr.dataset(payments.pipeline, payments.labelled()))


def test_dataset_command_tells_a_program(payments: Payments, tmp_path: Path) -> None:
    """`--json` prints one object."""
    requests, out = payments.folder / "labelled.parquet", tmp_path / "training.parquet"
    told = json.loads(
        call(
            str(payments.file), "--requests", str(requests), "--out", str(out), "--json", "--pipeline", "scores"
        ).stdout
    )
    assert (told["rows"], told["left_out"], told["features"]) == (100, 0, list(FEATURES))
    assert told["views"]["Profile"]["rows"] == 30


def test_dataset_command_that_fails_leaves_no_file(payments: Payments, tmp_path: Path) -> None:
    """Of requests that are not there, and of a place that cannot be written."""
    out = tmp_path / "training.parquet"
    with pytest.raises(SourceError, match="no such file"):
        call(str(payments.file), "--requests", str(tmp_path / "absent.parquet"), "--out", str(out))
    requests = payments.folder / "labelled.parquet"
    with pytest.raises(SourceError, match="cannot be written"):
        call(str(payments.file), "--requests", str(requests), "--out", str(requests / "below" / "x.parquet"))
    assert not list(tmp_path.iterdir())


def test_dataset_command_of_an_unknown_pipeline_names_the_known(payments: Payments, tmp_path: Path) -> None:
    """A slip of the pen is answered with the names there are."""
    requests = payments.folder / "labelled.parquet"
    with pytest.raises(SetupError, match="one of scores"):
        call(str(payments.file), "--requests", str(requests), "--out", str(tmp_path / "x"), "--pipeline", "score")
