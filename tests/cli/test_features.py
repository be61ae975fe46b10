"""`tailrace features`, through the command line: what it prints of texts that others made up."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from tailrace.cli.main import app

PIPELINE = """
import tailrace as tr

class Click(tr.Request):
    click_id: str
    customer_id: str
    at: float

class Answer(tr.Response):
    score: float

clicks = tr.Stream("clicks", schema=Click, time="at", id="click_id")

class Clicked(tr.StreamFeatureView):
    entity = tr.Entity("customer", key="customer_id")
    stream = clicks
    clicks_1h: int = tr.count(window="1h")

class Profile(tr.BatchFeatureView):
    entity = tr.Entity("customer", key="customer_id")
    source = tr.Parquet("profile.parquet")
    city: str = "none"

ask = tr.Pipeline(name="ask", request=Click, response=Answer, features=[Clicked, Profile], model=tr.Model("ask"),
                  budget=tr.Budget("200ms"), store="lmdb:store")
"""
AT = 1_750_000_000
TEXTS = ["[/x]", "[bold]", ":x:", "a\\\\"]
"""What rich reads as a tag that closes none, a tag, a picture, and what spares the next bracket."""


def run(*arguments: str) -> str:
    """Return what a command prints that succeeds."""
    done = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "120"})
    assert done.exit_code == 0, done.output
    return done.stdout


# Ibis 12 calls what DuckDB 2 deprecates.
@pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning")
@pytest.mark.parametrize("text", TEXTS)
def test_texts_are_shown_as_they_are(text: str, tmp_path: Path) -> None:
    """An event's id and a view's value: whatever they hold, they are no markup."""
    file, events = tmp_path / "pipeline.py", tmp_path / "events.jsonl"
    file.write_text(PIPELINE)
    pq.write_table(pa.table({"customer_id": ["c"], "city": [text]}), tmp_path / "profile.parquet")
    events.write_text(json.dumps({"click_id": text, "customer_id": "c", "at": AT}))
    run("materialize", str(file))
    run("ingest", str(file), "--from", str(events))
    shown = run("features", str(file), "customer", "c", "--why", "--at", "2025-06-15T15:10")
    (city,) = (line for line in shown.splitlines() if "city" in line)
    assert city.split()[3] == text
    assert f"event {text} ".ljust(15) in shown
