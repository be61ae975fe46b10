"""`tailrace materialize`: from a pipeline's file to rows in its store."""

from __future__ import annotations

import json
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from tailrace.cli.materialize import materialize
from tailrace.compile.loading import load_pipelines
from tailrace.errors import SetupError
from tailrace.features.keys import EntityId
from tailrace.features.rows import RowCodec
from tailrace.features.stores.lmdb_writer import LmdbWriter
from tailrace.features.view_rows import ViewRows

# Ibis 12 calls what DuckDB 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning")

PIPELINE = '''
"""A pipeline of two views on CSV files."""
import tailrace as tr

class Payment(tr.Request):
    customer_id: str
    terminal_id: int

class Answer(tr.Response):
    score: float

class Profile(tr.BatchFeatureView):
    entity = tr.Entity("customer", key="customer_id")
    source = tr.CSV("profile.csv", time="as_of")
    amount: float = -1.0

class Risk(tr.BatchFeatureView):
    entity = tr.Entity("terminal", key="terminal_id")
    source = tr.CSV("risk.csv")
    risk: float = -1.0

scores = tr.Pipeline(
    name="scores", request=Payment, response=Answer, features=[Profile, Risk], model=tr.Model("scores"),
    budget=tr.Budget("50ms"), store="lmdb:build/store",
)
'''


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return the file of a pipeline, its sources beside it."""
    (tmp_path / "profile.csv").write_text("customer_id,amount,as_of\n1,1.5,2025-01-01\n2,x,2025-01-01\n")
    (tmp_path / "risk.csv").write_text("terminal_id,risk\n1,0.5\n2,0.25\n")
    (tmp_path / "scores_pipeline.py").write_text(PIPELINE)
    return tmp_path / "scores_pipeline.py"


def call(*arguments: str) -> Result:
    """Call the command as a shell would."""
    app = typer.Typer()
    app.command()(materialize)
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


SECOND = """
other = tr.Pipeline(
    name="other", request=Payment, response=Answer, features=[Risk], model=tr.Model("scores"),
    budget=tr.Budget("50ms"), store="lmdb:build/other",
)
"""


def read(store: Path, file: Path, view: int, ids: list[EntityId]) -> ViewRows:
    """Return what the store holds of one of the pipeline's views."""
    (pipeline,) = load_pipelines(file)
    codec = RowCodec(pipeline.views[view].spec)
    writer = LmdbWriter(store)
    try:
        return codec.unpack(ids, [writer.get(codec.key(each)) for each in ids], time.time_ns())
    finally:
        writer.close()


def test_materialize_command_writes_every_view_beside_the_pipeline(file: Path) -> None:
    """Sources and store are relative to the file; ids are of the request's types; bad rows are told."""
    result = call(str(file))
    assert result.exit_code == 0
    assert "scores.Profile: 1 rows written" in result.stdout
    assert "1 of 2 rows bad" in result.stdout
    assert "amount: 'x' is no float64" in result.stdout
    store = file.parent / "build" / "store"
    assert read(store, file, 0, ["1", "2"]).column("amount").tolist() == [1.5, -1.0]
    assert read(store, file, 1, [1, 2]).column("risk").tolist() == [0.5, 0.25]


def test_materialize_command_writes_the_views_that_are_named_to_another_store(file: Path, tmp_path: Path) -> None:
    """`--view` chooses, `--store` replaces the store, `--json` prints one object a view."""
    other = tmp_path / "other"
    result = call(str(file), "--view", "Risk", "--store", str(other), "--json", "--batch-rows", "1")
    (report,) = map(json.loads, result.stdout.splitlines())
    assert (report["pipeline"], report["view"], report["written"], report["bad"]) == ("scores", "Risk", 2, 0)
    assert read(other, file, 1, [2]).column("risk").tolist() == [0.25]
    assert not (file.parent / "build").exists()


def test_materialize_command_leaves_out_a_pipeline_without_the_named_view(file: Path) -> None:
    """Of two pipelines only the one that has the view is materialised; without `--view` both are."""
    file.write_text(PIPELINE + SECOND)
    only = call(str(file), "--view", "Profile", "--json")
    assert [json.loads(line)["view"] for line in only.stdout.splitlines()] == ["Profile"]
    assert not (file.parent / "build" / "other").exists()
    every = [json.loads(line) for line in call(str(file), "--json").stdout.splitlines()]
    names = [(each["pipeline"], each["view"]) for each in every]
    assert names == [("scores", "Profile"), ("scores", "Risk"), ("other", "Risk")]


def test_materialize_command_of_an_unknown_view_tells_the_known(file: Path) -> None:
    """A slip of the pen is answered with the names there are."""
    with pytest.raises(SetupError, match="choose from Profile, Risk"):
        call(str(file), "--view", "Profil")


def test_materialize_command_of_no_rows_a_batch_is_an_error(file: Path) -> None:
    """A batch has at least a row."""
    with pytest.raises(SetupError, match="--batch-rows"):
        call(str(file), "--batch-rows", "0")


def test_materialize_command_writes_the_other_views_where_one_fails(file: Path) -> None:
    """The reason is told, as JSON too, and the exit code is 1 though another view was written."""
    (file.parent / "profile.csv").write_text("customer_id,amount,as_of\n")
    result = call(str(file), "--json")
    failed, written = map(json.loads, result.stdout.splitlines())
    assert result.exit_code == 1
    assert (failed["view"], failed["error"], failed["where"]) == (
        "Profile", "the source has no rows", "features.Profile.source",
    )  # fmt: skip
    assert "--allow-empty" in failed["next"]
    assert "error: scores.Profile: features.Profile.source: the source has no rows" in result.stderr
    assert (written["view"], written["written"]) == ("Risk", 2)
    assert call(str(file), "--allow-empty").exit_code == 0


def test_materialize_command_tells_run_and_lease(file: Path) -> None:
    """Who wrote, since when, and as which run of the view."""
    for run in (1, 2):
        (told,) = map(json.loads, call(str(file), "--view", "Risk", "--json").stdout.splitlines())
        assert told["run"] == run
        assert told["holder"].endswith(f":{os.getpid()}")
        assert datetime.now(UTC) - datetime.fromisoformat(told["since"]) < timedelta(minutes=5)


@pytest.mark.parametrize(
    ("words", "where"),
    [(("--wait", "soon"), "--wait"), (("--keep-old", "2"), "--keep-old"), (("--prune-max", "20"), "--prune-max")],
)
def test_materialize_command_with_a_wrong_option_says_which(file: Path, words: tuple[str, str], where: str) -> None:
    """And what to write instead."""
    with pytest.raises(SetupError) as caught:
        call(str(file), *words)
    assert caught.value.where == where
    assert caught.value.next
