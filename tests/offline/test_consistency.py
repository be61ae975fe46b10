"""Consistency: what was served is compared with what training would have, and differences are given a reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import structlog
import typer
from payment_history import FEATURES, Payments
from typer.testing import CliRunner, Result

from tailrace.cli.consistency import consistency
from tailrace.deadline import MonotonicClock
from tailrace.errors import SetupError
from tailrace.monitor import sampler
from tailrace.monitor.sampler import Sampler
from tailrace.monitor.samples import SampleWriter
from tailrace.testing import TestClient

# Ibis 12 calls what DuckDB 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning")

ROWS = 120


@pytest.fixture(scope="module")
def payments(tmp_path_factory: pytest.TempPathFactory) -> Payments:
    """Return payments that were served in order, every one of them sampled. Read only."""
    payments = Payments(tmp_path_factory.mktemp("served"), rows=ROWS)
    serve(payments)
    return payments


def serve(payments: Payments) -> None:
    """Serve all payments, with the first profile of each customer, and sample them."""
    writer = SampleWriter(payments.folder / "samples.jsonl.0", structlog.get_logger())
    first = pc.equal(payments.profiles["as_of"], payments.profiles["as_of"][0])
    payments.profiles = payments.profiles.filter(first)
    payments.write()
    with TestClient.of_file(payments.file) as client:
        recorder = Sampler(client.plan.pipeline, "r1", writer, MonotonicClock())
        views = {view.__name__: view for view in client.plan.pipeline.views}
        for row in payments.profiles.to_pylist():
            client.put(views["Profile"], row["customer_id"], **{name: row[name] for name in ("age", "city", "tier")})
        rows = zip(payments.payments.to_pylist(), payments.labels.to_pylist(), strict=True)
        for place, (payment, label) in enumerate(rows):
            batch = client.run([msgspec.json.encode(payment)])
            recorder.record(batch, place * sampler._INTERVAL_NS)
            client.push(views["Frauds"].spec.stream, label)
            while writer.waiting:
                pass
    writer.close()


def call(payments: Payments, *arguments: str, samples: Path | None = None) -> Result:
    """Call the command as a shell would."""
    app = typer.Typer()
    app.command()(consistency)
    chosen = samples or payments.folder / "samples.jsonl"
    words = [str(payments.file), "--samples", str(chosen), *arguments]
    return CliRunner().invoke(app, words, catch_exceptions=False)


def report(payments: Payments, *arguments: str) -> dict[str, Any]:
    """Return what the command tells a program."""
    return json.loads(call(payments, "--json", *arguments).stdout)


def test_what_was_served_is_what_training_has(payments: Payments) -> None:
    """Every feature of every sample is equal, and the exit code is 0."""
    result = call(payments)
    assert result.exit_code == 0, result.stdout
    assert f"{ROWS} rows served, computed again" in result.stdout
    told = report(payments)
    assert (told["ok"], told["rows"], told["unread"], told["others"]) == (True, ROWS, 0, 0)
    assert set(told["features"]) == set(FEATURES)
    assert all(each["exact"] + each["close"] == ROWS for each in told["features"].values())


def test_event_that_came_late_is_told(payments: Payments, tmp_path: Path) -> None:
    """The history has more than the server had; other streams and views are as they were."""
    extra = payments.payments.to_pylist()[ROWS // 2]
    late = [extra | {"transaction_id": 10**6, "amount": 77.0}]
    later = pa.concat_tables([payments.payments, pa.Table.from_pylist(late, payments.payments.schema)])
    pq.write_table(later, tmp_path / "payments.parquet")
    result = call(payments, "--history", f"payments={tmp_path / 'payments.parquet'}")
    assert result.exit_code == 1
    told = report(payments, "--history", f"payments={tmp_path / 'payments.parquet'}")
    count = told["features"]["Activity.count_1d"]
    assert count["differing"] == {"late event": count["compared"] - count["exact"]}
    assert count["largest"] == 1
    assert count["examples"][0]["computed"] == count["examples"][0]["served"] + 1
    assert told["features"]["Activity.before"]["differing"].keys() <= {"late event", "unknown"}
    assert told["features"]["Frauds.share_1d"]["differing"] == {}
    assert call(payments, "--history", f"payments={tmp_path / 'payments.parquet'}", "--tolerance", "1").exit_code == 0


def test_provenance_of_what_was_served_is_the_reason(payments: Payments, tmp_path: Path) -> None:
    """A value that was stale or a default differs for that, whatever else there is."""
    lines = (payments.folder / "samples.jsonl.0").read_text().splitlines()
    changed = []
    for place, line in enumerate(lines):
        sample = json.loads(line)
        if place < 3:
            sample["provenance"]["Profile"] = "stale" if place else "timeout"
            sample["features"]["Profile.age"] = -5.0
        elif place == 3:
            sample["features"]["Profile.age"] = None
        changed.append(json.dumps(sample))
    (tmp_path / "samples.jsonl").write_text("\n".join([*changed, '{"time":"2025', json.dumps({"a": 1}), ""]))
    result = call(payments, "--json", samples=tmp_path / "samples.jsonl")
    told = json.loads(result.stdout)
    age = told["features"]["Profile.age"]
    assert result.exit_code == 1
    assert told["unread"] == 2
    assert {reason: age["differing"].get(reason) for reason in ("stale", "timeout")} == {"stale": 2, "timeout": 1}
    assert sum(age["differing"].values()) == 4


def test_sample_of_nothing_of_the_pipeline_is_an_error(payments: Payments, tmp_path: Path) -> None:
    """Nothing compared is no success: samples of another pipeline, of other features, or none at all."""
    first = json.loads((payments.folder / "samples.jsonl.0").read_text().splitlines()[0])
    (tmp_path / "other.jsonl").write_text(json.dumps(first | {"pipeline": "other"}) + "\n")
    with pytest.raises(SetupError, match="1 are others, 0 lines are none"):
        call(payments, samples=tmp_path / "other.jsonl")
    (tmp_path / "old.jsonl").write_text(json.dumps(first | {"features": {"amount": 1.0}}) + "\n")
    with pytest.raises(SetupError, match="1 are others"):
        call(payments, samples=tmp_path / "old.jsonl")
    with pytest.raises(SetupError, match="no such sample"):
        call(payments, samples=tmp_path / "absent.jsonl")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--history", "payments"), "is not STREAM=PATH"),
        (("--history", "clicks=x.parquet"), "no view of a stream 'clicks'"),
        (("--tolerance", "2"), "is no share"),
    ],
)
def test_consistency_with_a_wrong_option_says_which(payments: Payments, words: tuple[str, ...], told: str) -> None:
    """And what to write instead."""
    with pytest.raises(SetupError, match=told):
        call(payments, *words)
