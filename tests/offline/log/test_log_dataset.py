"""Training sets of the log: what was served, as `dataset` would have made it, with labels by request id."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import typer
from payment_history import FEATURES, Payments
from served_log import log_of, serve_logged
from typer.testing import CliRunner

from pipelines.model_graphs import linear
from tailrace.cli.dataset import dataset
from tailrace.compile.loading import load_pipelines
from tailrace.compile.samples import Samples
from tailrace.errors import SetupError, SourceError
from tailrace.offline.dataset import METADATA, DatasetInfo, write_dataset
from tailrace.offline.log.dataset import LogChoice, write_log_dataset
from tailrace.offline.log.labels import keep_labels
from tailrace.pipeline import Pipeline
from tailrace.testing import TestClient

# Ibis 12 calls what DuckDB 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning")

ROWS = 120
REAL_ROWS = 200
ADDED = {"ratio", "Activity.mean_1h", "Activity.spread_1d", "Activity.mean_5m", "Frauds.share_1d"}
"""Floats that may be added up, or divided, in another order."""

app = typer.Typer()
app.command()(dataset)


@pytest.fixture(scope="module")
def payments(tmp_path_factory: pytest.TempPathFactory) -> Payments:
    """Return payments that were served, every one of them logged with its id. Read only."""
    payments = Payments(tmp_path_factory.mktemp("served"), rows=ROWS)
    serve_logged(payments)
    return payments


def made(payments: Payments, out: Path, **choice: Any) -> pa.Table:
    """Return a training set of the log."""
    options = LogChoice(**choice)
    write_log_dataset(payments.pipeline, payments.folder / "log", out, options, lambda what, done, total: None)
    return pq.read_table(out)


def label_file(payments: Payments, folder: Path, rows: int | None = None) -> Path:
    """Return a file of labels of the first payments."""
    ids = [f"order-{each}" for each in payments.payments["transaction_id"].to_pylist()]
    path = folder / "came_true.parquet"
    pq.write_table(pa.table({"request_id": ids, "label": payments.labels["is_fraud"]}).slice(0, rows), path)
    return path


def assert_as_usual(payments: Payments, folder: Path) -> None:
    """Hold a training set of the log against the one that is joined by time."""
    found = made(payments, folder / "log.parquet", labels=label_file(payments, folder))
    requests = payments.payments.append_column("label", payments.labels["is_fraud"])
    write_dataset(payments.pipeline, requests, folder / "usual.parquet")
    usual = pq.read_table(folder / "usual.parquet")
    assert found.drop(["request_id", "answered", "release"]).schema.equals(usual.schema, check_metadata=False)
    assert found.column_names[: len(FEATURES)] == list(FEATURES)
    infos = [msgspec.json.decode(each.schema.metadata[METADATA], type=DatasetInfo) for each in (found, usual)]
    assert msgspec.structs.replace(infos[1], timeless=()) == infos[0]
    assert found.num_rows == payments.payments.num_rows
    for name in usual.column_names:
        left, right = found[name].to_pylist(), usual[name].to_pylist()
        if name in ADDED:
            np.testing.assert_allclose(left, right, rtol=1e-9, atol=1e-9, err_msg=name)
        else:
            assert left == right, name


def test_it_is_what_dataset_makes_of_the_same_requests(payments: Payments, tmp_path: Path) -> None:
    """Names, order, types and values of all columns."""
    assert_as_usual(payments, tmp_path)


@pytest.mark.slow
def test_of_real_payments_it_is_what_dataset_makes(shared_data: Path, tmp_path: Path) -> None:
    """Those of the busiest customers of the public transactions, with what became of them."""
    payments = Payments(tmp_path, rows=ROWS)
    table = pq.read_table(shared_data)
    all_customers = table["CUSTOMER_ID"].cast(pa.int64())
    busiest = np.argsort(-np.bincount(all_customers.to_numpy()), kind="stable")[:8]
    table = table.filter(pc.is_in(all_customers, pa.array(busiest)))
    table = table.sort_by([("TX_DATETIME", "ascending"), ("TRANSACTION_ID", "ascending")]).slice(0, REAL_ROWS)
    time = table["TX_DATETIME"].cast(pa.timestamp("us")).cast(pa.timestamp("us", "UTC"))
    names = ("TRANSACTION_ID", "CUSTOMER_ID", "TERMINAL_ID")
    ids, customers, terminals = (table[name].cast(pa.int64()) for name in names)
    payments.payments = pa.table({
        "transaction_id": ids, "customer_id": customers, "terminal_id": terminals,
        "amount": table["TX_AMOUNT"].cast(pa.float64()), "time": time, "channel": ["web"] * table.num_rows,
    })  # fmt: skip
    payments.labels = pa.table({
        "transaction_id": ids, "terminal_id": terminals, "is_fraud": table["TX_FRAUD"].cast(pa.int64()), "time": time,
    })  # fmt: skip
    serve_logged(payments)
    assert_as_usual(payments, tmp_path)


def test_labels_that_are_kept_beside_the_log_are_used(payments: Payments, tmp_path: Path) -> None:
    """Lines without one are left out, or have none."""
    log = payments.folder / "log"
    assert "label" not in made(payments, tmp_path / "none.parquet").column_names
    report = keep_labels(log, "scores", label_file(payments, tmp_path, rows=40))
    try:
        found = made(payments, tmp_path / "some.parquet")
        assert found["label"].to_pylist() == payments.labels["is_fraud"].to_pylist()[:40]
        found = made(payments, tmp_path / "all.parquet", unlabelled=True)
        assert (found.num_rows, found["label"].null_count) == (ROWS, ROWS - 40)
    finally:
        Path(report.path).unlink()


def test_lines_that_were_not_fresh_may_be_left_out(payments: Payments, tmp_path: Path) -> None:
    """Customers without a profile were served its defaults."""
    table = pq.read_table(next((payments.folder / "log").rglob("*.parquet")))
    defaults = sum(each["Profile"] != "fresh" or each["Activity"] != "fresh" or each["Frauds"] != "fresh"
                   for each in table["provenance"].to_pylist())  # fmt: skip
    assert 0 < defaults < table.num_rows
    found = made(payments, tmp_path / "fresh.parquet", fresh=True)
    whole = made(payments, tmp_path / "whole.parquet")
    assert 0 < found.num_rows < whole.num_rows == ROWS
    assert found["Profile.age"].to_pylist().count(-1.0) < whole["Profile.age"].to_pylist().count(-1.0)


def test_features_alone_have_no_field_of_the_request_beside(payments: Payments, tmp_path: Path) -> None:
    """But what says which line it is."""
    found = made(payments, tmp_path / "out.parquet", features_only=True)
    assert found.column_names == [*FEATURES, "request_id", "answered", "release"]


def test_lines_of_other_features_are_counted(payments: Payments, tmp_path: Path) -> None:
    """A release before had one less; and a log of nothing else is refused with that."""
    lacking = tmp_path / "log" / "scores" / "2025-06-16T12" / "1750075200000000-1-0.parquet"
    lacking.parent.mkdir(parents=True)
    table = pq.read_table(next((payments.folder / "log").rglob("*.parquet")))
    features = table["features"].combine_chunks()
    names = [each.name for each in features.type.fields]
    less = pa.StructArray.from_arrays(features.flatten()[1:], names[1:])
    pq.write_table(table.set_column(table.column_names.index("features"), "features", less), lacking)

    def make() -> Any:
        choice = LogChoice()
        return write_log_dataset(
            payments.pipeline, tmp_path / "log", tmp_path / "out.parquet", choice, lambda *told: None
        )

    with pytest.raises(
        SourceError, match=rf"no line of the log can be used: {table.num_rows} of a release that has other"
    ):
        make()
    assert not (tmp_path / "out.parquet").exists()
    pq.write_table(table, lacking.with_name("1750075201000000-1-1.parquet"))
    report = make()
    assert (report.rows, report.left_out) == (table.num_rows, {"of a release that has other features": table.num_rows})


def test_command_says_what_was_made(payments: Payments, tmp_path: Path) -> None:
    """And wants one of two origins."""
    out = tmp_path / "set.parquet"
    log = ["--from-log", str(payments.folder / "log")]
    result = CliRunner().invoke(app, [str(payments.file), *log, "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert f"{out}: {ROWS} rows, {len(FEATURES)} features" in result.stdout
    for arguments in ([], [*log, "--requests", "x.parquet"], ["--requests", "x.parquet", "--fresh"]):
        result = CliRunner().invoke(app, [str(payments.file), *arguments, "--out", str(out)])
        assert isinstance(result.exception, SetupError), arguments


def test_request_of_many_rows_has_an_item_in_each(pipeline_of: Callable[[str], Pipeline], tmp_path: Path) -> None:
    """Its other fields stand in each of them, as `dataset` has it."""
    pipeline = pipeline_of("ranking")
    bodies = [{"user_id": user, "item_ids": list(range(user)), "budget": 5.0 * user} for user in (3, 1, 2)]
    log_of(pipeline, bodies, tmp_path)
    out = tmp_path / "out.parquet"
    write_log_dataset(pipeline, tmp_path, out, LogChoice(), lambda *told: None)
    found = pq.read_table(out)
    assert found["item_ids"].to_pylist() == [0, 1, 2, 0, 0, 1]
    assert found["user_id"].to_pylist() == [3, 3, 3, 1, 2, 2]
    assert found["budget"].to_pylist() == [15.0] * 3 + [5.0] + [10.0] * 2
    assert found.column_names[:5] == ["UserProfile.affinity", "ItemProfile.popularity", "ItemProfile.price", "budget",
                                      "price_fit"]  # fmt: skip
    assert found["row"].to_pylist() == [0, 1, 2, 0, 0, 1]
    with pytest.raises(SourceError, match="make many rows"):
        write_log_dataset(pipeline, tmp_path, out, LogChoice(labels=tmp_path / "any.parquet"), lambda *told: None)


def test_fields_of_every_kind_are_columns(
    pipeline_of: Callable[[str], Pipeline], pipelines_dir: Path, tmp_path: Path
) -> None:
    """Lists, texts, times and numbers, as a caller has sent them."""
    pipeline = pipeline_of("kinds")
    with TestClient(pipeline) as client:
        made = [msgspec.json.decode(Samples(client.plan).body(seed)) for seed in range(5)]
    bodies: list[dict[str, Any]] = [body | {"amount": 1.5 + place} for place, body in enumerate(made)]
    log_of(pipeline, bodies, tmp_path)
    out = tmp_path / "out.parquet"
    report = write_log_dataset(pipeline, tmp_path, out, LogChoice(), lambda *told: None)
    assert (report.rows, report.left_out) == (5, {})
    found = pq.read_table(out)
    for name in ("count", "flag", "colour", "level", "maybe", "numbers", "words", "vector"):
        assert found[name].to_pylist() == [body.get(name) for body in bodies], name
    assert [json.loads(text) for text in found["table"].to_pylist()] == [body["table"] for body in bodies]
    assert found.schema.field("words").type == pa.list_(pa.string())


def test_line_of_a_share_weighs_more(payments: Payments, tmp_path: Path) -> None:
    """As many requests as it stands for; where all are logged there is no such column."""
    (path, *_) = sorted((payments.folder / "log").rglob("*.parquet"))
    table = pq.read_table(path)
    sampled = tmp_path / "log" / "scores" / path.parent.name / path.name
    sampled.parent.mkdir(parents=True)
    shares = pa.array(np.where(np.arange(table.num_rows) % 2, 0.25, 1.0).astype(np.float32))
    pq.write_table(table.set_column(table.column_names.index("share"), "share", shares), sampled)
    out = tmp_path / "out.parquet"
    write_log_dataset(payments.pipeline, tmp_path / "log", out, LogChoice(), lambda *told: None)
    assert pq.read_table(out)["weight"].to_pylist() == np.where(np.arange(table.num_rows) % 2, 4.0, 1.0).tolist()


CARD = """
from typing import Annotated
import tailrace as tr

class Payment(tr.Request):
    amount: float
    card: Annotated[str, tr.REDACTED]
    label: str = "none"

class Score(tr.Response):
    score: float

cards = tr.Pipeline(
    name="cards", request=Payment, response=Score, features=[Payment.amount], model=tr.Model("cards"),
    budget=tr.Budget("1s"),
)
"""


def test_redacted_field_is_not_there_and_names_of_fields_come_first(tmp_path: Path) -> None:
    """A label is another column where the request has a field of that name."""
    (tmp_path / "cards.py").write_text(CARD)
    (tmp_path / "models").mkdir()
    linear(tmp_path / "models", "cards", {"amount": 0.01})
    (pipeline,) = load_pipelines(tmp_path / "cards.py")
    bodies = [{"amount": 1.5, "card": "4711"}, {"amount": 2.5, "card": "0815", "label": "own"}]
    log_of(pipeline, bodies, tmp_path / "log")
    (path,) = (tmp_path / "log").rglob("*.parquet")
    table = pq.read_table(path)
    ids = pa.array(["a", "b"])
    pq.write_table(table.set_column(table.column_names.index("request_id"), "request_id", ids), path)
    pq.write_table(pa.table({"request_id": ["b", "a"], "label": [0.5, 1.0]}), tmp_path / "came_true.parquet")
    out = tmp_path / "out.parquet"
    choice = LogChoice(labels=tmp_path / "came_true.parquet")
    report = write_log_dataset(pipeline, tmp_path / "log", out, choice, lambda *told: None)
    assert report.redacted == ("card",)
    found = pq.read_table(out)
    assert found.column_names == ["amount", "label", "request_id", "answered", "release", "log_label"]
    assert found["label"].to_pylist() == ["none", "own"]
    assert found["log_label"].to_pylist() == [1.0, 0.5]
